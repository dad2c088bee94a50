"""Selects slates that are relevant and varied from scored candidates.

    python -m experiments.select_slates                 # the embedded log
    python -m experiments.select_slates --data=scored.parquet
    python -m experiments.select_slates --data=scored.parquet \\
        --items=items.parquet --method=dpp --theta=0.8 --quota=3
    python -m experiments.select_slates --format=kuairand \\
        --data=$KUAIRAND --items=$KUAIRAND

A row of --data is a candidate: `request_id`, `item_id`, `score`, `category`
and its features, a list of numbers in `features` or a number in each
`embedding_*` (other names: --request_column and so on). A table of --items may
hold category and features instead. The rows of a request must stand together.
An item that a request repeats is used once, with its best score. Relevance is
log(score), as is right for probabilities; --relevance=raw takes scores as they
are, however large. A candidate whose features are null, empty or all 0 has
none, and resembles no other.

In the workdir, slates.parquet holds `request_id`, `slot` (from 0), `item_id`
and `gain`, the key the item was picked by; a slot for which no candidate is
left has no row: of the others the run says what leaves them empty, and which
flag fills them. slates.html shows slates of a few requests for every method
and theta, report.html what each method gives up for diversity. A second run
with the same workdir replaces all of them.

The rows are read twice, the first time to check them. Memory holds a chunk of
requests and a part of a row group. Requests are padded to powers of two, which
keeps the number of compilations small.

Without --data, a request is a user of the embedded log, the candidates are all
items this user was shown within the week (one page shows too few to choose
from), and the score is that of a click.
"""

import dataclasses
import pathlib
from typing import Any

from experiments.runs import flags
from experiments.runs import workdir as workdir_lib
from experiments.slates import comparison as comparison_lib
from experiments.slates import results
from experiments.slates import selection
from experiments.slates.config import Config
from harmonrank_jax.serving import models


@workdir_lib.alone
def select(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Writes slates and a comparison; returns what `summary.json` holds."""
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    inputs = selection.read_inputs(config, workdir)
  facts = inputs.facts
  print(f"{facts.num_requests:,} requests, {facts.num_rows:,} candidates, "
        f"{facts.largest:,} at most; {len(facts.categories):,} categories, "
        f"{inputs.candidates.num_features} features", flush=True)
  drawn = comparison_lib.draw(
      facts, num_selected=config.num_selected, seed=config.seed)
  selected = selection.write_slates(
      config, inputs, drawn, workdir / "slates.parquet")
  comparison = comparison_lib.compare(
      selected.sample, selection.relevance(config, selected.sample.scores),
      num_categories=len(facts.categories), rules=inputs.rules,
      theta=config.theta, seed=config.seed)
  content = publish(config, workdir, inputs, selected, comparison)
  models.write_model(workdir, selection.make_model(config, inputs), {})
  return content


def publish(
    config: Config, workdir: pathlib.Path, inputs: selection.Inputs,
    selected: selection.Selected, comparison: comparison_lib.Comparison,
) -> dict[str, Any]:
  """Writes and returns the summary; writes the pages, prints the table."""
  from experiments.slates import report  # Slow to import.

  record = results.make_record(config, inputs, selected, comparison)
  workdir_lib.write_json(workdir / "summary.json", record.summary)
  report.write_report(workdir / "report.html", record)
  shown = report.shown_requests(comparison)
  report.write_slates_page(workdir / "slates.html", report.make_content(
      comparison, shown, list(inputs.facts.categories), method=config.method,
      limits=inputs.limits, titles=selection.read_titles(
          config, inputs, report.shown_items(comparison, shown))))
  results.print_counts(record.summary)
  results.print_table(record)
  print(f"{workdir / 'slates.html'}  {workdir / 'report.html'}  "
        f"{workdir / 'slates.parquet'}  {workdir / 'summary.json'}")
  return record.summary


def main(config: Config) -> None:
  """Runs what the flags say."""
  select(config, flags.workdir(config, "select_slates"))


if __name__ == "__main__":
  flags.run(main, Config, after_interrupt="no slates are written.")
