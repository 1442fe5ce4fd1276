"""The state of one symbol's live feed: trades received, gaps, age of each channel, sealed bars. Pure."""
