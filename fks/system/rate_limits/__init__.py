"""Rate limits shared by all processes of one address or API key, kept in Redis."""
