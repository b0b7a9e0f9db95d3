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

mod seeded_rng {
    use rand_core::RngCore;

    use crate::identity::SeededRng;

    #[test]
    fn each_generator_and_each_draw_gives_other_bytes() {
        let draw = |rng: &mut SeededRng| {
            let mut bytes = [0; 80];
            rng.fill_bytes(&mut bytes);
            bytes
        };
        let (mut one, mut other) = (SeededRng::new().unwrap(), SeededRng::new().unwrap());
        let drawn = [draw(&mut one), draw(&mut one), draw(&mut other)];
        let mut chunks: Vec<&[u8]> = drawn.iter().flat_map(|bytes| bytes.chunks(16)).collect();
        chunks.sort_unstable();
        chunks.dedup();
        assert_eq!(chunks.len(), 15);
        assert_ne!(one.next_u64(), one.next_u64());
    }
}
