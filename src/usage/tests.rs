use std::os::unix::ffi::OsStringExt as _;

use proptest::prelude::*;

use super::*;

/// `carpel` and these arguments.
fn line(args: &[&str]) -> Vec<OsString> {
    ["carpel"].iter().chain(args).map(OsString::from).collect()
}

fn refusal(args: &[&str]) -> (String, u8) {
    match parse(&line(args)) {
        Err(Stop::Wrong { message, status }) => (message, status),
        other => panic!("{args:?}: {other:?}"),
    }
}

#[test]
fn guesses_are_within_two_letters_and_none_for_short_words() {
    let guess = |typed: &str| guess(typed, ["kernel", "net", "mem", "boot", "firmware", "timeout"].into_iter());
    assert_eq!(guess("--kernal"), Some("kernel"));
    assert_eq!(guess("--kenrle"), Some("kernel"));
    assert_eq!(guess("--kr"), None);
    assert_eq!(guess("--nat"), Some("net"));
    assert_eq!(guess("--port"), None);
    assert_eq!(guess("--hardware"), None);
    assert_eq!(guess("--timeouts"), Some("timeout"));
    assert_eq!(guess(&"x".repeat(100_000)), None);
}

#[test]
fn values_and_all_behind_two_dashes_are_not_looked_at() {
    for option in ["-a", "--append", "--until", "--fail-on", "--cpu"] {
        for value in ["-h", "-hda", "--rm", "-append", "--", "-help"] {
            let cli = parse(&line(&["run", "-k", "x", option, value, "--dry-run"]));
            assert!(cli.is_ok_and(|cli| matches!(cli.command, Command::Run(args) if args.dry_run)), "{option} {value}");
        }
    }
    for behind in ["-h", "--help", "-hda", "--rm", "-it"] {
        assert!(parse(&line(&["run", "-k", "x", "--", "ls", behind])).is_ok(), "{behind}");
        assert!(parse(&line(&["run", "-k", "x", "--", behind])).is_ok(), "{behind}");
    }
}

#[test]
fn the_status_is_that_of_a_command_where_there_is_one() {
    assert_eq!(refusal(&["run", "--frob", "--", "true"]).1, FAILURE);
    for args in [&["run", "--frob"][..], &["run", "--frob", "--"], &["map", "--frob", "--", "true"]] {
        assert_eq!(refusal(args).1, USAGE_ERROR, "{args:?}");
    }
    // Here it is a value.
    assert_eq!(refusal(&["run", "--append", "--", "--frob"]).1, USAGE_ERROR);
}

/// Arguments as they stand on command lines, and what else there may be.
fn argument() -> impl Strategy<Value = OsString> {
    let definition = Cli::command();
    let all = definition.get_subcommands().flat_map(Definition::get_arguments).chain(definition.get_arguments());
    let mut words: Vec<String> = all.flat_map(names).map(|name| format!("--{name}")).collect();
    words.extend(definition.get_subcommands().map(|command| command.get_name().to_owned()));
    words.extend(
        "-h -hda -vh -hv -V --help --version -help help version -- - --- = -= --=".split(' ').map(str::to_owned),
    );
    words.extend(
        "-k -kx -kernel -v -vv -it -i -t -m -m512 -m1G -c2 -a -append -e --rm -5".split(' ').map(str::to_owned),
    );
    words.extend("512M x a=b 1s file=x path=x tap0 none stdio \u{0} é".split(' ').map(str::to_owned));
    words.push(String::new());
    let word = prop::sample::select(words);
    prop_oneof![
        8 => word.clone().prop_map(OsString::from),
        2 => (word, "[-=a-z0-9,.:]{0,6}").prop_map(|(word, tail)| (word + &tail).into()),
        1 => "-[a-zA-Z]{1,4}".prop_map(OsString::from),
        1 => prop::collection::vec(any::<u8>(), 0..6).prop_map(OsString::from_vec),
    ]
}

fn arguments() -> impl Strategy<Value = Vec<OsString>> {
    let command = prop::sample::select(vec!["run", "run", "run", "map", "devices", "help", ""]);
    (command, prop::collection::vec(argument(), 0..8)).prop_map(|(command, mut args)| {
        let front = line(if command.is_empty() { &[] } else { std::slice::from_ref(&command) });
        args.splice(0..0, front);
        args
    })
}

/// Whether somebody asked for help or the version in so many words.
fn is_asked_for(args: &[OsString]) -> bool {
    let words = args.iter().skip(1).take_while(|arg| *arg != "--");
    let is_request = |arg: &OsString| ["-h", "--help", "-V", "--version"].iter().any(|request| arg == request);
    let is_command = |arg: &OsString| ["help", "version"].iter().any(|command| arg == command);
    words.clone().any(is_request) || words.clone().find(|arg| !arg.as_bytes().starts_with(b"-")).is_some_and(is_command)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn help_is_printed_only_where_it_was_asked_for_and_errors_are_one_line(args in arguments()) {
        match parse(&args) {
            Err(Stop::Help(_)) => prop_assert!(is_asked_for(&args)),
            Err(Stop::Wrong { message, status }) => {
                let line = output::one_line(&message);
                prop_assert!(!line.is_empty() && !line.contains(char::is_control), "{}", line);
                prop_assert!(!line.contains("Usage:") && !line.contains("error:"), "{}", line);
                let ran = args.iter().any(|arg| arg == "run") && args.iter().any(|arg| arg == "--");
                prop_assert!(status == USAGE_ERROR || status == FAILURE && ran);
            }
            Ok(_) => {}
        }
    }

    #[test]
    fn the_scan_sees_what_the_parser_sees(args in arguments()) {
        let mut definition = Cli::command();
        let scan = Scan::new(&definition, &args);
        let is_fine = scan.items().iter().all(|item| matches!(item, Item::Option(..)));
        let is_misread = scan.items().iter().any(|item| misread(item).is_some());
        let (has_guest_command, has_command) = (scan.has_guest_command(), scan.command().is_some());
        let unknown = [ErrorKind::UnknownArgument, ErrorKind::InvalidSubcommand];
        match definition.try_get_matches_from_mut(&args).and_then(|matches| Cli::from_arg_matches(&matches)) {
            Ok(cli) => {
                prop_assert!(is_fine || is_misread);
                if let (Command::Run(args), false) = (cli.command, is_misread) {
                    prop_assert_eq!(has_guest_command, !args.command.is_empty());
                }
            }
            Err(error) if unknown.contains(&error.kind()) => prop_assert!(!is_fine || !has_command, "{}", error),
            Err(_) => {}
        }
    }
}
