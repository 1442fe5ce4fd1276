"""Commands of persons by chat: a Telegram bot."""
