//! What may keep two machines from reaching each other, and the commands that clear it away.

use std::path::Path;

/// The command that lets peers through the firewall of this machine to a TCP port, where one is known
/// to be on: ufw by its configuration, firewalld by its runtime files. `None` is no proof that there is
/// none.
pub fn firewall_hint(port: u16) -> Option<String> {
    firewall_under(Path::new("/"), port)
}

/// The lines that open a port on another Linux machine, whose firewall is not known.
pub(super) fn open_port_there(port: u16) -> String {
    format!("`{}` or `{}`", ufw(port), firewalld(port))
}

/// Whether this is Linux inside Windows, behind an address of its own.
pub(super) fn is_wsl() -> bool {
    std::fs::read_to_string("/proc/version").is_ok_and(|version| version.to_lowercase().contains("microsoft"))
}

fn firewall_under(root: &Path, port: u16) -> Option<String> {
    let ufw_is_on = std::fs::read_to_string(root.join("etc/ufw/ufw.conf")).is_ok_and(|text| {
        text.lines().any(|line| line.replace(['"', '\'', ' '], "").eq_ignore_ascii_case("ENABLED=yes"))
    });
    if ufw_is_on {
        return Some(ufw(port));
    }
    let firewalld_runs = ["run/firewalld", "run/firewalld.pid"].iter().any(|path| root.join(path).exists());
    firewalld_runs.then(|| firewalld(port))
}

fn ufw(port: u16) -> String {
    format!("sudo ufw allow {port}/tcp")
}

fn firewalld(port: u16) -> String {
    format!("sudo firewall-cmd --permanent --add-port={port}/tcp && sudo firewall-cmd --reload")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firewall_that_is_on_gives_its_own_command() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(firewall_under(root.path(), 7433), None);
        std::fs::create_dir_all(root.path().join("run/firewalld")).unwrap();
        let firewalld = "sudo firewall-cmd --permanent --add-port=7433/tcp && sudo firewall-cmd --reload";
        assert_eq!(firewall_under(root.path(), 7433).unwrap(), firewalld);
        std::fs::create_dir_all(root.path().join("etc/ufw")).unwrap();
        let configured = |text: &str| std::fs::write(root.path().join("etc/ufw/ufw.conf"), text).unwrap();
        configured("# ENABLED=yes\nENABLED=no\nLOGLEVEL=low\n");
        assert_eq!(firewall_under(root.path(), 7433).unwrap(), firewalld);
        for on in ["ENABLED=yes\n", "LOGLEVEL=low\nENABLED=\"yes\"\n"] {
            configured(on);
            assert_eq!(firewall_under(root.path(), 8000).unwrap(), "sudo ufw allow 8000/tcp");
        }
    }
}
