//! Reading what a host prints: the driver's marks, and between them the output of steps.

use super::Output;

/// What a line of a host's output means.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The host's own words.
    Host,
    /// A line of the running step.
    Text,
    /// A step begins.
    Begin,
    /// The running step has ended.
    End(Output),
    /// All steps have ended.
    Done,
}

/// The state between lines.
#[derive(Debug, Default)]
pub struct Transcript {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    index: String,
    began: f64,
    output: Output,
}

impl Transcript {
    /// Whether a step has begun and not ended.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Takes one line without its end.
    pub fn feed(&mut self, line: &str) -> Event {
        let words: Vec<_> = line.strip_prefix("@@").map_or_else(Vec::new, |mark| mark.split(' ').collect());
        let number = |word: &str| word.parse().unwrap_or(0.0);
        match (words.as_slice(), &mut self.running) {
            (["begin", index, began], running) => {
                *running =
                    Some(Running { index: (*index).to_owned(), began: number(began), output: Output::default() });
                Event::Begin
            }
            (["limit", index], Some(running)) if *index == running.index => {
                running.output.out_of_time = true;
                Event::Text
            }
            (["end", index, status, now], Some(running)) if *index == running.index => {
                let mut output = std::mem::take(&mut running.output);
                output.status = status.parse().unwrap_or(-1);
                output.seconds = number(now) - running.began;
                // The driver starts a new line before its mark, for output that did not end its last one.
                if output.text.ends_with("\n\n") || output.text == "\n" {
                    output.text.pop();
                }
                self.running = None;
                Event::End(output)
            }
            (["done"], None) => Event::Done,
            (_, Some(running)) => {
                running.output.text.push_str(line);
                running.output.text.push('\n');
                Event::Text
            }
            (_, None) => Event::Host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed_all(text: &str) -> Vec<Event> {
        let mut transcript = Transcript::default();
        text.lines()
            .map(|line| transcript.feed(line))
            .filter(|event| !matches!(event, Event::Host | Event::Text))
            .collect()
    }

    #[test]
    fn a_step_has_what_was_printed_between_its_marks() {
        let events = feed_all("boot\n@@begin 0 3.50\none\n@@ two\n\n@@end 0 124 5.75\nbetween\n@@done\n");
        let output = Output { status: 124, text: "one\n@@ two\n".to_owned(), seconds: 2.25, out_of_time: false };
        assert_eq!(events, [Event::Begin, Event::End(output), Event::Done]);
    }

    #[test]
    fn a_step_that_ran_out_of_time_says_so() {
        let events = feed_all("@@begin 7 1\npartial\n@@limit 7\n\n@@end 7 137 61\n");
        let output = Output { status: 137, text: "partial\n".to_owned(), seconds: 60.0, out_of_time: true };
        assert_eq!(events, [Event::Begin, Event::End(output)]);
    }

    #[test]
    fn marks_that_belong_to_no_running_step_are_text() {
        assert_eq!(feed_all("@@end 0 0 1\n@@begin 0 1\n@@end 1 0 2\n@@limit 3\n@@done\n"), [Event::Begin]);
    }
}
