"""Documents, search and answers with sources; advice that cannot order."""
