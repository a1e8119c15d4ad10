//! The controller in a network namespace of its own, against a DHCP server that speaks for itself. Needs root.
