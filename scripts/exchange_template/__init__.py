"""Template of an exchange package: copy this folder to `fks/market/exchanges/<name>/` and replace what is made up.

It is complete: it implements an exchange that does not exist, and passes the contract test that every exchange passes.
docs/add-an-exchange.md has the steps. The top of each file of yours states what its code relies on in the exchange's
documentation, whether it was recorded or only documented, and where and when it was read.

| Module | Holds | |
|---|---|---|
| `capabilities` | what the exchange offers, proves and allows: `CAPABILITIES` | required |
| `wire` | the websocket protocol without the websocket | required; channels other than trades are optional |
| `exchange` | `listing`, `instrument_of`, `fetch_bars` and `fetch_trades` over REST, and `wire` | required |

A wire that sends pings, or anything else that is not an answer, returns it from `pulse`. An API key is a setting of
class Data, named in `CAPABILITIES.key_setting`; it is never part of an address.
"""
