//! The launchd agent, and what `launchctl` is asked.

use std::path::Path;
use std::time::Duration;

use super::{Command, Daemon, State, Step, attempt, command, no_manager};
use crate::programs;
use crate::wire::Failure;

/// Name of the agent.
pub const LABEL: &str = "pi-remote";
/// Name of its file.
pub const FILE: &str = "pi-remote.plist";

const QUESTION: Duration = Duration::from_secs(10);

/// The agent's property list.
pub fn agent(daemon: &Daemon) -> String {
    let words = std::iter::once(daemon.program.clone()).chain(daemon.arguments());
    let words: String = words.map(|word| format!("    <string>{}</string>\n", escaped(&word))).collect();
    let log = escaped(&daemon.log);
    daemon.mark().seal(|mark| {
        // The mark is JSON: what ends a comment cannot stand in it.
        format!(
            "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">
<!-- {mark} -->
<!-- Written by `pi-remote service install`, removed by `pi-remote service uninstall`. -->
<plist version=\"1.0\">
<dict>
  <key>Label</key>
  <string>{LABEL}</string>
  <key>ProgramArguments</key>
  <array>
{words}  </array>
  <key>RunAtLoad</key>
  <true/>
  <!-- `pi-remote stop` ends it with success, so that it stays stopped until the next login. -->
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>30</integer>
  <!-- What it makes is this user's alone (octal 077), and its keys reach no core dump. -->
  <key>Umask</key>
  <integer>63</integer>
  <key>HardResourceLimits</key>
  <dict>
    <key>Core</key>
    <integer>0</integer>
  </dict>
  <!-- Where `tailscale` may be. -->
  <key>EnvironmentVariables</key>
  <dict>
    <key>PATH</key>
    <string>/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/Applications/Tailscale.app/Contents/MacOS</string>
  </dict>
  <key>StandardErrorPath</key>
  <string>{log}</string>
</dict>
</plist>
"
        )
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub(super) fn commands(step: Step, user: u32, file: &str) -> Vec<Command> {
    let (domain, target) = (format!("gui/{user}"), target(user));
    let enable = command(&["launchctl", "enable", &target]);
    let load = command(&["launchctl", "bootstrap", &domain, file]);
    match step {
        // One that was stopped is loaded still.
        Step::Install | Step::Replace => vec![attempt(&["launchctl", "bootout", &target]), enable, load],
        Step::Start => vec![command(&["launchctl", "kickstart", &target])],
        Step::Stop => vec![command(&["launchctl", "kill", "SIGTERM", &target])],
        Step::Disable => vec![attempt(&["launchctl", "bootout", &target])],
        Step::Forget => vec![],
    }
}

pub(super) fn log_command(follow: bool, log: &Path) -> Vec<String> {
    let mut words = vec!["tail".to_owned(), "-n".into(), "100".into()];
    words.extend(follow.then(|| "-F".to_owned()));
    words.push(log.display().to_string());
    words
}

pub(super) async fn state(user: u32, installed: bool) -> Result<State, Failure> {
    if programs::find("launchctl").is_none() {
        return Err(no_manager("there is no launchd here: `launchctl` is not on the PATH".into()));
    }
    let loaded = programs::run(&["launchctl", "print", &target(user)], QUESTION).await?;
    let (pid, running) = if loaded.code == Some(0) { running(&loaded.stdout) } else { (None, false) };
    Ok(State {
        installed: false,
        enabled: installed,
        active: running,
        unit: None,
        program: None,
        linger: None,
        pid,
        at_rest: !running,
        words: if running { "running" } else { "not running" }.into(),
        said: None,
    })
}

/// What `launchctl print` says of the agent itself: its members stand one tab in.
fn running(printed: &str) -> (Option<u32>, bool) {
    let member = |name: &str| printed.lines().find_map(|line| line.strip_prefix('\t')?.strip_prefix(name));
    let pid = member("pid = ").and_then(|pid| pid.parse().ok());
    (pid, member("state = ") == Some("running"))
}

fn target(user: u32) -> String {
    format!("gui/{user}/{LABEL}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_launchctl_prints_is_read() {
        let printed = "gui/501/pi-remote = {\n\tactive count = 1\n\tstate = running\n\n\tprogram = /x\n\tendpoints = {\n\
                       \t\tpid = 1\n\t}\n\tpid = 812\n}\n";
        assert_eq!(running(printed), (Some(812), true));
        assert_eq!(running("gui/501/pi-remote = {\n\tstate = not running\n}\n"), (None, false));
    }
}
