"""Documents, models and forecasts: answers with their sources, and forecasts that cannot order.

A forecast is a row that a strategy may read; its signals are sized, checked and denied like any others. Without a
model, a question is answered by the passages that were found.

- chunks, search, answers: from documents to passages to an answer that quotes them
- engines, machine: language models in a process, each optional, and checks of a machine for them
- schemas: JSON schemas that a model's text is to fit
- consent: permission to send passages to a provider
- forecast, forecast_evaluation: models trained on bars, evaluated on bars that they did not see

Imported by: store, research, interfaces
Begin with: `answers.py`
Most important: `search.py`, `engines/llama.py`, `forecast.py`
"""
