"""The guardian: the kill switch, with its own venue sessions, journal file and control socket."""
