"""Documents, models and forecasts: answers with their sources, and advice that cannot order.

Advice leaves as a signal, and is sized, checked and denied like any other. Without a model, a question is answered by
the passages that were found.

- chunks, search, answers: from documents to passages to an answer that quotes them
- engines, machine: language models in a process, each optional, and checks of a machine for them
- consent: permission to send passages to a provider
- forecast, forecast_evaluation: models trained on bars, evaluated on bars that they did not see

Imported by: store, research, interfaces
Begin with: `answers.py`
Most important: `search.py`, `engines.py`, `forecast.py`
"""
