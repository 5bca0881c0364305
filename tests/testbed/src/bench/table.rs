//! Numbers, and tables of them in Markdown.

/// The middle of the values; of an even number, the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// The smallest of the values.
pub fn minimum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The median of `values[i] / base[i]`: both of one round, so that what slows a whole round cancels out.
pub fn ratio(values: &[f64], base: &[f64]) -> f64 {
    median(&values.iter().zip(base).map(|(value, base)| value / base).collect::<Vec<_>>())
}

/// A cell of the median and the minimum.
pub fn cell(values: &[f64]) -> String {
    format!("{:.2} / {:.2}", median(values), minimum(values))
}

/// A table in the making.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self(vec![headings.iter().map(|&heading| heading.to_owned()).collect()])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }

    /// Prints it, with an empty line before it.
    pub fn print(&self) {
        println!("\n{}", self.text());
    }

    fn text(&self) -> String {
        let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let (headings, rows) =
            self.0.split_first().map_or((&[][..], &[][..]), |(first, rest)| (first.as_slice(), rest));
        let rule = vec!["---".to_owned(); headings.len()];
        let lines = [line(headings), line(&rule)].into_iter().chain(rows.iter().map(|row| line(row)));
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_ratios_pairs_rounds() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        // The second round was ten times as slow for both.
        assert!((ratio(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]) - 2.0).abs() < f64::EPSILON);
        assert_eq!(cell(&[1.0, 3.0]), "2.00 / 1.00");
    }

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new(&["", "ms"]);
        table.row(["floor".to_owned(), "1".to_owned()]);
        assert_eq!(table.text(), "|  | ms |\n| --- | --- |\n| floor | 1 |");
    }
}
