"""GraphQL over the reads of the REST API: one field per route, answered by the route itself."""
