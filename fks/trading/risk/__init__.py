"""Risk: signals to sized intents, and intents to Approved or Denied. The only maker of either; pure, without any
I/O."""
