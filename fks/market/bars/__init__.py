"""Bars: buckets of time, aggregation of trades and smaller bars, trading calendars, validation. Pure."""
