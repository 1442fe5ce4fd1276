"""Pages, which only talk to the api."""
