//! Codes and tickets that were typed where they do not belong: on a command line other users see
//! them in `ps`, they stay in the shell's history, and a host's name goes to a resolver.

use crate::pairing::code::PairingCode;
use crate::pairing::ticket::looks_like_ticket;

/// Whether a word could be a pairing code or a ticket, one with a slip in it too.
///
/// A word of a code's eight symbols whose check symbol fits is always taken for one, and so is one
/// host's name of eight letters in 32, which must then be given in full (a code has no dot) or by
/// its address. What could only be a code with a slip in it is taken for one unless it has a port.
pub(crate) fn looks_like_secret(word: &str) -> bool {
    let (host, has_port) = match word.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, true),
        Some(_) | None => (word, false),
    };
    let host = host.trim();
    if looks_like_ticket(word) || host.parse::<PairingCode>().is_ok() {
        return true;
    }
    !has_port && (could_be_a_cut_ticket(host) || could_be_a_code_with_a_slip(host))
}

fn could_be_a_cut_ticket(host: &str) -> bool {
    let starts = host.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("pir1"));
    starts && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// In two groups of four, as a code is shown; or of about its length with a letter right behind a
/// digit, as ten codes in eleven have it and hardly a host's name does.
fn could_be_a_code_with_a_slip(host: &str) -> bool {
    let is_symbol = |c: &char| c.is_ascii_alphanumeric() && !matches!(c, 'u' | 'U');
    let groups: Vec<&str> = host.split(|c: char| c == '-' || c.is_whitespace()).collect();
    if !groups.iter().all(|group| group.chars().all(|c| is_symbol(&c))) {
        return false;
    }
    let mixed = |group: &&str| group.as_bytes().windows(2).any(|w| w[0].is_ascii_digit() && w[1].is_ascii_alphabetic());
    let symbols: usize = groups.iter().map(|group| group.len()).sum();
    groups.iter().map(|group| group.len()).eq([4, 4]) || ((7..=9).contains(&symbols) && groups.iter().any(mixed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_known_however_it_is_written_and_also_with_a_slip() {
        for code in [
            "K7MQ-2XVT",
            "k7mq-2xvt",
            "K7MQ2XVT",
            " k7mq 2xvt ",
            "K7MQ-2XVT:7433",
            "k7mq2xvt:22",
            "k-7-m-q-2-x-v-t",
            "ABCD-EFGG",
            "abcdefgg",
            // With a slip in it.
            "K7MQ-2XVR",
            "k7mq-2xvo",
            "ABCD-EFGH",
            "abcd efgh",
            "k7mq2xvr",
            "k7mq-2xv",
            "k7mq-2xvtt",
        ] {
            assert!(looks_like_secret(code), "{code}");
        }
    }

    #[test]
    fn a_ticket_is_known_also_when_it_was_cut() {
        let whole = format!("pir1{}", "AQIDBAUG".repeat(12));
        for ticket in [whole.as_str(), &whole[..50], &whole[..60], "pir1AQIDBAUG", "PIR1AQ", "pir1"] {
            assert!(looks_like_secret(ticket), "{ticket}");
        }
        assert!(looks_like_secret(&format!("{whole}:7433")));
    }

    #[test]
    fn a_hosts_name_that_is_no_code_is_let_through() {
        for host in [
            "desktop",
            "desktop1",
            "raspberr",
            "server01",
            "node0001",
            "localhost",
            "macbook1",
            "pi4-desk",
            "my-laptop",
            "192.0.2.1",
            "192.0.2.1:7433",
            "::1",
            "2001:db8::1",
            "[2001:db8::1]:7433",
            "a.example",
            "k7mq2xvt.local",
            "pir1.local",
            "pir1:7433",
            // Would be taken for a code with a slip in it without the port.
            "dell-7490:7433",
            "web2prod:7433",
            "me@dell-7490",
        ] {
            assert!(!looks_like_secret(host), "{host}");
        }
        assert!(looks_like_secret("dell-7490") && looks_like_secret("web2prod"));
    }
}
