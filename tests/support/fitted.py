"""The strategy with an estimator that docs/write-a-strategy.md shows, for tests of instances and jobs."""

from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "write-a-strategy.md"
SCALED = _PAGE.read_text().partition("## Estimators")[2].partition("```python\n")[2].partition("```")[0]
