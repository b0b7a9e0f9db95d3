//! What tests share.

/// What tests need of openssl, the second opinion on keys, certificates and handshakes.
pub(crate) mod openssl {
    use std::io::Write as _;
    use std::process::Command;

    /// Whether openssl is installed. If not, the test that asks is skipped and says so: to stderr
    /// itself, since the harness keeps what a test that passes prints.
    pub(crate) fn is_missing() -> bool {
        let missing = Command::new("openssl").arg("version").output().is_err();
        if missing {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: openssl is not installed");
        }
        missing
    }
}
