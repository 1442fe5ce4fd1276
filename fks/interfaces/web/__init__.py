"""Web pages: a Serve application of its own below `/app`. Every byte of data comes from the gateway over HTTP, with the
reader's own session; this package opens no database. `pages.py` holds the static pages that the gateway serves."""
