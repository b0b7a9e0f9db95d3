//! The invariants of `src/lib.rs`, kept by reading the sources: what may import what, what stays
//! pure, who prints, who creates files, who names a TLS configuration.

use std::path::{Path, PathBuf};

use crate::support::source::{product, rooms_used};

/// The rooms from top to bottom; each may use only those of the rows below its own.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["doctor"],
    &["service"],
    &["daemon"],
    &["session", "link", "control", "discover"],
    &["relay"],
    &["pairing", "trust"],
    &["identity", "config", "audit"],
    &["state_dir", "clock", "tasks", "programs"],
    &["wire"],
];

/// What has neither I/O nor time nor chance.
const PURE: &[&str] = &[
    "wire/",
    "relay/",
    "pairing/",
    "trust/compare.rs",
    "trust/grant.rs",
    "trust/policy.rs",
    "trust/terms.rs",
    "audit/line.rs",
    "audit/walk.rs",
    "audit/collapse.rs",
];

/// What pure code may not name, as tokens: the runtime, TLS, files, sockets, clocks, chance, and the
/// rooms' own doors to them.
const IMPURE: &[&str] = &[
    "tokio",
    "rustls",
    "tokio_rustls",
    "rcgen",
    "nix",
    "tracing",
    "notify",
    "socket2",
    "std :: fs",
    "std :: env",
    "std :: process",
    "std :: thread",
    "fs ::",
    "File",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "Instant :: now",
    "SystemTime :: now",
    "Uuid :: new_v4",
    "SystemRandom",
    "StateDir",
    "DeviceKey",
    "crate :: clock",
    "trust :: store",
    "trust :: Store",
];

const PRINTING: &[&str] = &["print !", "println !", "eprint !", "eprintln !", "dbg !", "stdout ( )", "stderr ( )"];

const CREATING: &[&str] = &[
    "File :: create",
    "File :: create_new",
    "File :: options",
    "OpenOptions",
    "fs :: write",
    "fs :: copy",
    "fs :: rename",
    "symlink (",
    "hard_link (",
    "create_dir",
    "create_dir_all",
    "DirBuilder",
    "UnixListener :: bind",
    "UnixDatagram :: bind",
    "O_CREAT",
    "mkfifo",
];

const TLS_CONFIGURATIONS: &[&str] = &["ClientConfig", "ServerConfig"];

/// The most lines that a file has without a reason.
const LONGEST: usize = 600;
/// The files that are longer, and why.
const LONG: &[(&str, &str)] = &[
    ("link/tls/tests.rs", "the cases of a hostile peer, each with its alert, read as one table"),
    ("relay/tests.rs", "the router's cases and its random histories, which share one model of what must come out"),
];

#[test]
fn imports_run_downwards() {
    assert_clean(|source| imports(&source.path, &source.code));
}

#[test]
fn every_room_has_its_layer() {
    for entry in std::fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let room = name.trim_end_matches(".rs");
        assert!(matches!(room, "lib" | "main") || layer(room).is_some(), "{room} is not in the table of layers");
    }
}

#[test]
fn the_core_is_pure() {
    assert_clean(|source| {
        let pure = PURE.iter().any(|room| source.path.starts_with(room));
        if pure { named(&source.code, IMPURE) } else { Vec::new() }
    });
}

#[test]
fn only_the_output_prints() {
    assert_clean(|source| if source.path == "cli/output.rs" { Vec::new() } else { named(&source.code, PRINTING) });
}

#[test]
fn only_the_state_directory_creates_files() {
    // The demo's and the tests' sessions make sockets and aliases, as Pi's extension does.
    let may = ["state_dir.rs", "state_dir/log.rs", "session/fake.rs"];
    assert_clean(|source| if may.contains(&source.path.as_str()) { Vec::new() } else { named(&source.code, CREATING) });
}

#[test]
fn only_link_tls_names_a_tls_configuration() {
    assert_clean(|source| {
        let may = source.path.starts_with("link/tls");
        if may { Vec::new() } else { named(&source.code, TLS_CONFIGURATIONS) }
    });
}

#[test]
fn no_file_grows_past_what_one_sitting_can_read() {
    let lengths: Vec<(String, usize)> = files(&root())
        .into_iter()
        .map(|path| (relative(&path), std::fs::read_to_string(&path).unwrap().lines().count()))
        .collect();
    assert_eq!(too_long(&lengths), Vec::<String>::new());
    for (listed, _) in LONG {
        let length = lengths.iter().find(|(path, _)| path == listed).map_or(0, |(_, length)| *length);
        assert!(length > LONGEST, "{listed} needs no reason any more: take it off the list");
    }
}

/// A file of the product, its comments, texts and tests taken out.
struct Source {
    path: String,
    code: Vec<String>,
}

#[track_caller]
fn assert_clean(check: impl Fn(&Source) -> Vec<String>) {
    let sources: Vec<Source> = files(&root())
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| Source { path: relative(&path), code: product(&std::fs::read_to_string(&path).unwrap()) })
        .collect();
    assert!(sources.len() > 50, "the sources are there");
    let found: Vec<String> = sources
        .iter()
        .flat_map(|source| check(source).into_iter().map(|what| format!("src/{}: {what}", source.path)))
        .collect();
    assert_eq!(found, Vec::<String>::new());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// What a file uses that does not lie below it.
fn imports(path: &str, code: &[String]) -> Vec<String> {
    let mut modules: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    if modules.last() == Some(&"mod") {
        modules.pop();
    }
    let Some(own) = layer(modules[0]) else { return Vec::new() };
    let below = |room: &&String| room.as_str() == modules[0] || layer(room).is_some_and(|layer| layer > own);
    let used = rooms_used(modules.len(), code);
    used.iter().filter(|room| !below(room)).map(|room| format!("{} uses {room}", modules[0])).collect()
}

/// Which of the phrases stand in the code; a phrase is tokens between spaces.
fn named(code: &[String], phrases: &[&str]) -> Vec<String> {
    let stands = |phrase: &str| {
        let words: Vec<&str> = phrase.split(' ').collect();
        code.windows(words.len()).any(|part| part.iter().zip(&words).all(|(token, word)| token == word))
    };
    // `use std::{fs, io}` names std::fs too.
    let grouped = code.windows(4).position(|part| part == ["use", "std", "::", "{"]).map(|at| &code[at..]);
    let grouped = grouped.and_then(|rest| Some(&rest[..rest.iter().position(|token| token == ";")?]));
    let in_group = |phrase: &str| {
        let room = phrase.strip_prefix("std :: ");
        room.is_some_and(|room| grouped.is_some_and(|group| group.iter().any(|token| token == room)))
    };
    let found = phrases.iter().filter(|phrase| stands(phrase) || in_group(phrase));
    found.map(|phrase| format!("names {phrase}")).collect()
}

fn too_long(lengths: &[(String, usize)]) -> Vec<String> {
    let listed = |path: &str| LONG.iter().any(|(long, _)| *long == path);
    let long = lengths.iter().filter(|(path, length)| *length > LONGEST && !listed(path));
    long.map(|(path, length)| format!("{path}: {length} lines")).collect()
}

mod checks_can_fail {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        imports(path, &product(text))
    }

    #[test]
    fn an_import_upwards_or_sideways_is_seen_in_every_spelling() {
        for (path, text) in [
            ("relay/calls.rs", "use crate::link::Link;"),
            ("relay/calls.rs", "use crate::{\n wire::{Code, cli}, link::{self, tls}};"),
            ("relay/calls.rs", "fn f() { crate::daemon::run(); }"),
            ("relay/calls.rs", "use super::super::link::Link;"),
            ("relay/mod.rs", "use super::link::Link;"),
            ("relay/a/b.rs", "pub use super::super::super::{wire, cli};"),
            ("link/session.rs", "use crate::session::call;"),
            ("link/session.rs", "use crate::Unheard;"),
            ("clock.rs", "use super::state_dir::StateDir;"),
            ("wire/ids.rs", "use crate::clock;"),
        ] {
            assert_eq!(found(path, text).len(), 1, "{path}: {text}: {:?}", found(path, text));
        }
        for (path, text) in [
            ("relay/calls.rs", "use crate::{relay::x, wire::{Code, cli}};"),
            ("relay/calls.rs", "use super::links; pub(crate) mod x;"),
            ("relay/calls.rs", "// crate::link\nconst A: &str = \"crate::link\"; /* crate::cli */"),
            ("relay/calls.rs", "#[cfg(test)]\nmod tests { fn f() { crate::link::x() } }"),
            ("cli/pair.rs", "use crate::daemon;"),
        ] {
            assert_eq!(found(path, text), Vec::<String>::new(), "{path}: {text}");
        }
    }

    #[test]
    fn an_impurity_is_seen() {
        for text in [
            "use tokio::sync::mpsc;",
            "fn f(x: rustls::Error) {}",
            "use std::fs;",
            "use std::{fs::File, io};",
            "use std::{fs, io};",
            "use std::net::{IpAddr, TcpStream};",
            "let now = Instant::now();",
            "let now = std::time::SystemTime :: now();",
            "let id = Uuid::new_v4();",
            "use crate::clock::Clock;",
        ] {
            assert!(!named(&product(text), IMPURE).is_empty(), "{text}");
        }
        for text in [
            "use std::net::{IpAddr, SocketAddr};",
            "use std::time::{Duration, Instant, SystemTime};",
            "/// tokio\nlet x = 'f'; let y = \"std::fs\"; let z = r#\"Instant::now \"quoted\" \"#;",
            "fn f<'a>(x: &'a str) -> &'a str { x }",
        ] {
            assert_eq!(named(&product(text), IMPURE), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn printing_creating_and_tls_are_seen() {
        for text in ["println!(\"x\");", "std::io::stdout().write_all(b\"x\")", "eprint!(\"x\")", "io::stderr()"] {
            assert!(!named(&product(text), PRINTING).is_empty(), "{text}");
        }
        for text in [
            "std::fs::File::create(path)",
            "fs::write(path, b\"\")",
            "std::fs::OpenOptions::new()",
            "std::os::unix::fs::symlink(a, b)",
            "use std::os::unix::fs::symlink; symlink(a, b);",
            "std::fs::create_dir_all(p)",
        ] {
            assert!(!named(&product(text), CREATING).is_empty(), "{text}");
        }
        assert_eq!(named(&product("std::fs::symlink_metadata(p); m.is_symlink()"), CREATING), Vec::<String>::new());
        assert!(!named(&product("rustls::ServerConfig::builder()"), TLS_CONFIGURATIONS).is_empty());
    }

    #[test]
    fn a_long_file_is_seen_unless_it_has_a_reason() {
        let lengths = [("cli/x.rs".to_owned(), 601), ("cli/y.rs".to_owned(), 600), (LONG[0].0.to_owned(), 900)];
        assert_eq!(too_long(&lengths), ["cli/x.rs: 601 lines"]);
    }
}
