"""A trained re-ranking policy: what a run leaves of it, and how it answers."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar
from typing import Self

import jax
import jax.numpy as jnp
import jax.scipy.special

from harmonrank_jax.data import encoding
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import slate_logs
from harmonrank_jax.data import slate_rows
from harmonrank_jax.reranker import day as day_lib
from harmonrank_jax.reranker import policy as policy_lib
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import request as request_lib
from harmonrank_jax.reranker import score_calibration
from harmonrank_jax.reranker import simulator as simulator_lib
from harmonrank_jax.reranker import trajectory

# Name, type, shape and meaning of an array of a function: b requests of n
# candidates.
Described = tuple[str, str, tuple[int | str, ...], str]


@dataclasses.dataclass(frozen=True)
class Policy:
  """From scored candidates and the user's day to a slate.

  Parameters are `request.Deployed` as a tree of dicts, by `parameters_of`.
  """

  KIND: ClassVar[str] = "policy"
  simulator: simulator_lib.Simulator  # The page, as in training.
  network: policy_lib.PolicyConfig
  normalise_observations: bool
  theta: float  # Weight of relevance in the DPP; the knob moves it.
  # Whether relevance is the predicted click ("pctr"), or click with conversion
  # ("pctcvr").
  relevance: str
  categories: tuple[str, ...]  # Names of C categories.
  num_features: int  # D
  utc_offset_hours: float  # Added to times for the window of the day.
  columns: slate_rows.SlateColumns

  def to_json(self) -> dict[str, Any]:
    """As `from_json` reads it."""
    return {"simulator": dataclasses.asdict(self.simulator),
            "network": dataclasses.asdict(self.network),
            "normalise_observations": self.normalise_observations,
            "theta": self.theta, "relevance": self.relevance,
            "categories": list(self.categories),
            "num_features": self.num_features,
            "utc_offset_hours": self.utc_offset_hours,
            "columns": self.columns._asdict()}

  @classmethod
  def from_json(cls, content: dict[str, Any]) -> Self:
    """The inverse of `to_json`."""
    network = dict(content["network"])
    network["hidden_sizes"] = tuple(network["hidden_sizes"])
    return cls(
        simulator=simulator_lib.Simulator(**content["simulator"]),
        network=policy_lib.PolicyConfig(**network),
        normalise_observations=content["normalise_observations"],
        theta=content["theta"], relevance=content["relevance"],
        categories=tuple(content["categories"]),
        num_features=content["num_features"],
        utc_offset_hours=content["utc_offset_hours"],
        columns=slate_rows.SlateColumns(**content["columns"]))


def parameters_of(deployed: request_lib.Deployed) -> dict[str, Any]:
  """The arrays of a policy as a tree of dicts."""
  return {"actor": deployed.actor,
          "statistics": deployed.statistics._asdict(),
          "calibration": deployed.calibration._asdict()}


def inputs_of(policy: Policy, max_shown: int) -> list[Described]:
  """What `select` takes, of users who have been shown S items or fewer."""
  num_categories, shown = len(policy.categories), ("b", max_shown)
  return [
      ("where", "bool", ("b", "n"), "True = there is a candidate"),
      ("scores", "float32", ("b", "n"),
       "predicted probability of a click; a candidate is not shown if it is "
       "NaN or outside [0, 1]"),
      ("log_value", "float32", ("b", "n"),
       "log of what a click is worth; 0 for clicks themselves"
       if policy.relevance == "pctr" else
       "log of the predicted share of clicks with a conversion"),
      ("category_ids", "int32", ("b", "n"),
       "place of the category, -1 for none of the known"),
      ("features", "float32", ("b", "n", policy.num_features),
       "of the items, of any length; 0 for none"),
      ("theta", "float32", ("b",),
       "weight of relevance against diversity, between 0 and 1"),
      ("quotas", "int32", ("b", num_categories),
       "at most so many items of each category"),
      ("window", "int32", ("b",),
       "of 15 minutes of the day, from 0, at utc_offset_hours of the policy"),
      ("requests_today", "float32", ("b",),
       "of the user, in windows of the day before this one"),
      ("since_last", "float32", ("b",),
       "windows since the last of them; 0 if there is none"),
      ("shown_where", "bool", shown,
       "True = an item that the user was shown today"),
      ("shown_categories", "int32", shown,
       "place of the category, -1 for none of the known"),
      ("shown_age", "float32", shown, "windows since it was shown"),
      ("shown_scores", "float32", shown,
       "predicted probability of a click; NaN if unknown"),
      ("shown_clicked", "bool", shown, "True = clicked"),
      ("shown_dismissed", "bool", shown, "True = dismissed by the user")]


def outputs_of(policy: Policy) -> list[Described]:
  """What `select` returns."""
  slots = ("b", policy.simulator.num_slots)
  return [
      ("indices", "int32", slots,
       "candidates from the first position down, -1 in empty slots"),
      ("gains", "float32", slots,
       "by which they were selected, 0 in empty slots"),
      ("diversity", "float32", ("b",), "log det S_Y / K")]


def select(
    policy: Policy, parameters: Mapping[str, Any],
    inputs: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
  """Answers requests: a pure function of arrays.

  Args:
    policy: its static facts.
    parameters: the tree of `parameters_of`.
    inputs: arrays, as `inputs_of` describes them.

  Returns:
    Arrays, as `outputs_of` describes them.

  Raises:
    DataError: if the policy cannot answer single requests.
  """
  if policy.simulator.max_requests > 1:
    raise schema_lib.DataError(
        f"a policy of --max_requests={policy.simulator.max_requests} answers "
        "all requests of a window by one action, so it cannot answer single "
        "ones; train one with --max_requests=1.")
  config = ppo_config.PpoConfig(
      policy.network, normalise_observations=policy.normalise_observations)
  # Arrays of NumPy take no index that is traced.
  deployed = jax.tree.map(jnp.asarray, request_lib.Deployed(
      parameters["actor"],
      trajectory.Statistics(**parameters["statistics"]),
      score_calibration.Calibration(**parameters["calibration"])))
  answers = jax.vmap(
      lambda request, theta, quotas: request_lib.answer(
          policy.simulator, config, deployed, request, theta=theta,
          quotas=quotas))(
              _requests(inputs), inputs["theta"], inputs["quotas"])
  return {"indices": answers.indices, "gains": answers.gains,
          "diversity": answers.diversity}


def value_of(ranking_score: jax.Array, scores: jax.Array) -> jax.Array:
  """The `log_value` of candidates that another model ranks.

  Relevance is then the log of its score, plus what the calibration adds to the
  log of the predicted click.

  Args:
    ranking_score: `[b, n]`, above 0; what rounds to 0 is least relevant.
    scores: `[b, n]`, predicted probability of a click.

  Returns:
    `[b, n]`.
  """
  least = jnp.finfo(ranking_score.dtype).tiny
  return jnp.log(jnp.maximum(ranking_score, least)) - jax.nn.log_sigmoid(
      _log_odds(scores))


def _requests(inputs: Mapping[str, jax.Array]) -> request_lib.Request:
  scores: Any = inputs["scores"]
  shown = inputs["shown_scores"]
  # A NaN is not odd, but no candidate can be ranked by it.
  is_bad: Any = jnp.isnan(scores) | encoding.are_odd(scores)
  history = day_lib.History(
      categories=inputs["shown_categories"], age=inputs["shown_age"],
      # Nothing was predicted of an item without a score.
      log_odds=jnp.where(jnp.isnan(shown), -jnp.inf, _log_odds(shown)),
      clicks=inputs["shown_clicked"], dismissed=inputs["shown_dismissed"],
      where=inputs["shown_where"])
  return request_lib.Request(
      categories=inputs["category_ids"], features=inputs["features"],
      log_odds=_log_odds(scores), log_value=inputs["log_value"],
      where=inputs["where"] & ~is_bad, history=history, window=inputs["window"],
      requests_today=inputs["requests_today"],
      since_last=inputs["since_last"])


def _log_odds(scores: jax.Array) -> jax.Array:
  """Of predicted probabilities, as a log of slates is read."""
  least = slate_logs.MIN_PROBABILITY
  return jax.scipy.special.logit(jnp.clip(scores, least, 1 - least))
