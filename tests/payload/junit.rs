//! What a JUnit report must be for both schemas in use: windyroad's JUnit.xsd, of what Ant writes, and junit-10.xsd of
//! Jenkins' xUnit plugin. Where one asks for less than the other, the stricter rule stands here.

use std::collections::BTreeSet;

use roxmltree::{Document, Node};

/// What is read of a report that keeps the rules.
#[derive(Debug)]
pub struct Suite {
    /// The test case's name.
    pub case: String,
    /// The element that says how the case went wrong, and its type.
    pub outcome: Option<(String, String)>,
    /// What that says in full.
    pub text: String,
    /// The properties, by name.
    pub properties: Vec<(String, String)>,
    pub system_out: String,
    pub system_err: String,
}

/// Fails the test where a rule is broken.
#[track_caller]
pub fn check(text: &str) -> Suite {
    let document = Document::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let suite = document.root_element();
    assert_eq!(suite.tag_name().name(), "testsuite", "{text}");
    let attributes = ["name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"];
    expect_attributes(suite, &attributes);
    assert!(!value(suite, "name").trim().is_empty() && !value(suite, "hostname").trim().is_empty(), "{text}");
    expect_time(value(suite, "time"));
    expect_timestamp(value(suite, "timestamp"));

    let children = elements(suite);
    let order: Vec<_> = children.iter().map(|child| child.tag_name().name()).collect();
    assert_eq!(order, ["properties", "testcase", "system-out", "system-err"], "{text}");
    let [properties, case, out, err] = children[..] else { unreachable!("the order holds") };
    let result = check_case(case);
    for (count, element) in [("tests", None), ("failures", Some("failure")), ("errors", Some("error"))] {
        let expected = element.is_none() || result.is_some_and(|result| Some(result.tag_name().name()) == element);
        assert_eq!(value(suite, count), u8::from(expected).to_string(), "{count}: {text}");
    }
    assert_eq!(value(suite, "skipped"), "0", "{text}");
    Suite {
        case: value(case, "name").to_owned(),
        outcome: result.map(|result| (result.tag_name().name().to_owned(), value(result, "type").to_owned())),
        text: result.map(only_text).unwrap_or_default(),
        properties: check_properties(properties),
        system_out: only_text(out),
        system_err: only_text(err),
    }
}

fn check_properties(properties: Node) -> Vec<(String, String)> {
    expect_attributes(properties, &[]);
    let property = |property: Node| {
        assert_eq!(property.tag_name().name(), "property");
        expect_attributes(property, &["name", "value"]);
        assert_eq!(only_text(property), "");
        assert!(!value(property, "name").trim().is_empty());
        (value(property, "name").to_owned(), value(property, "value").to_owned())
    };
    elements(properties).into_iter().map(property).collect()
}

/// Returns how it went wrong.
fn check_case<'a, 'input>(case: Node<'a, 'input>) -> Option<Node<'a, 'input>> {
    expect_attributes(case, &["classname", "name", "time"]);
    expect_time(value(case, "time"));
    let results = elements(case);
    assert!(results.len() <= 1, "{results:?}");
    let result = *results.first()?;
    assert!(["failure", "error", "skipped"].contains(&result.tag_name().name()), "{result:?}");
    expect_attributes(result, &["type", "message"]);
    only_text(result);
    Some(result)
}

/// The elements in one, between which there is white space only.
fn elements<'a, 'input>(parent: Node<'a, 'input>) -> Vec<Node<'a, 'input>> {
    let blank = |node: &Node| node.is_element() || node.text().is_none_or(|text| text.trim().is_empty());
    assert!(parent.children().all(|node| blank(&node)), "{parent:?}");
    parent.children().filter(Node::is_element).collect()
}

/// The text of an element that holds no other.
fn only_text(node: Node) -> String {
    assert!(node.children().all(|child| child.is_text()), "{node:?}");
    node.children().filter_map(|child| child.text()).collect()
}

fn expect_attributes(node: Node, names: &[&str]) {
    let found: BTreeSet<_> = node.attributes().map(|attribute| attribute.name()).collect();
    assert_eq!(found, names.iter().copied().collect(), "{node:?}");
}

fn value<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    node.attribute(name).unwrap_or_else(|| panic!("{node:?} has no {name}"))
}

/// Seconds, to the millisecond at most.
fn expect_time(time: &str) {
    let (whole, part) = time.split_once('.').unwrap_or((time, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    assert!(!whole.is_empty() && digits(whole) && digits(part) && part.len() <= 3, "{time}");
}

/// A date and time of ISO 8601 without a zone.
fn expect_timestamp(timestamp: &str) {
    let shape: String = timestamp.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00", "{timestamp}");
    timestamp.parse::<jiff::civil::DateTime>().unwrap_or_else(|error| panic!("{timestamp}: {error}"));
}
