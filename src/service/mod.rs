//! The daemon as a service of the user's: a systemd user unit or a launchd agent.
