"""Commands of persons by chat: a Telegram or Discord bot."""
