//! Checks of this machine and of the way to every peer, each failure with the command that mends it.
