"""Risk: signals to sized intents, and intents to Approved or Denied. The only maker of either; pure, blind to any
I/O."""
