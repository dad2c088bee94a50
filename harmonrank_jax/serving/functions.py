"""What was trained as pure functions of flat arrays, which can be exported.

`score` is of rows, `select` of requests with candidates. Both take parameters
and inputs by their names, and return outputs by theirs. Stages that were
trained one by one are joined: the predictor's probabilities are the scores of
the ensemble, and its score is what slates are selected by.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import harmonrank_jax.arrays as arrays
from harmonrank_jax.data import encoding
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.predictor import training
from harmonrank_jax.serving import manifest
from harmonrank_jax.serving import models
from harmonrank_jax.serving import policy as policy_lib
from harmonrank_jax.serving import selector

# The axes of any size: rows or requests, and candidates of a request.
ROWS, CANDIDATES = "b", "n"


class Function(NamedTuple):
  """A pure function of arrays by name, and what describes it."""

  name: str  # "score" or "select"
  call: Callable[
      [Mapping[str, Any], Mapping[str, Any]], dict[str, jax.Array]]
  parameters: dict[str, np.ndarray]  # What `call` takes first.
  inputs: tuple[manifest.Field, ...]  # What `call` takes second.
  outputs: tuple[manifest.Field, ...]


def check(stages: Iterable[models.Trained]) -> None:
  """Raises a DataError of one line for stages that do not join."""
  by_kind: dict[str, Any] = {}
  for trained in stages:
    kind = trained.model.KIND
    if kind in by_kind:
      raise schema_lib.DataError(
          f"there are two models of the kind {kind}; take one of each.")
    by_kind[kind] = trained.model
  predictor, ensemble, slates, policy = (
      by_kind.get(kind.KIND)
      for kind in (models.Predictor, models.Ensemble, models.Slates,
                   policy_lib.Policy))
  if predictor and ensemble:
    _check_scores(predictor, ensemble)
  if slates and predictor and not ensemble:
    raise schema_lib.DataError(
        "slates are selected by one score, and a predictor has one for each "
        "objective; add the run of an ensemble.")
  if slates and ensemble and slates.relevance == "log" and (
      ensemble.config.head == "score"):
    raise schema_lib.DataError(
        "the scores of an ensemble of --head=score may be below 0, and have "
        "no logarithm; select slates with --relevance=raw.")
  if policy and slates:
    raise schema_lib.DataError(
        "slates and a policy both select; take one of them.")
  if policy and (predictor or ensemble):
    _check_policy(policy, predictor, ensemble)


def score_function(stages: Sequence[models.Trained]) -> Function | None:
  """The scores of rows by predictor and ensemble; None without either.

  Raises:
    DataError: if the stages do not join.
  """
  check(stages)
  front = _Front.of(stages)
  if front is None:
    return None

  def call(parameters, inputs):
    return front.scores(models.nested(parameters), inputs)

  return Function(
      "score", call, _parameters(stages, front.kinds),
      front.inputs((ROWS,)), front.outputs((ROWS,)))


def select_function(
    stages: Sequence[models.Trained], *,
    request_columns: Sequence[str] = (), max_shown: int = 40,
) -> Function | None:
  """The slates of requests; None if no stage selects.

  Args:
    stages: what selects, with predictor and ensemble before it or without.
    request_columns: profile columns that a request gives once, for all of its
      candidates.
    max_shown: S, items shown before that a request can name.

  Raises:
    DataError: if the stages do not join, or a column is unknown.
  """
  check(stages)
  slates = _model(stages, models.Slates)
  policy = _model(stages, policy_lib.Policy)
  if slates is None and policy is None:
    return None
  front = _Front.of(stages, tuple(request_columns))
  _check_columns(front, request_columns)
  if policy is not None:
    return _policy_function(policy, front, stages, max_shown)
  lead = (ROWS, CANDIDATES)
  num_features, num_categories = slates.num_features, len(slates.categories)
  inputs = front.inputs(lead) if front else (manifest.Field(
      "scores", "float32", lead, "of the candidates, higher is better"),)
  has_top = not front and slates.relevance == "raw"
  if has_top:
    inputs += (manifest.Field(
        "score_top", "float32", (ROWS,), "added to all scores of a request, "
        "of which large ones keep their digits as differences"),)
  outputs = front.outputs(lead) if front else ()

  def call(parameters, inputs):
    scores = front.scores(
        models.nested(parameters), inputs) if front else {}
    score = scores["ranking_score"] if front else inputs["scores"]
    if slates.relevance == "log":
      # What rounds to 0 is the least relevant, and still a candidate.
      score = jnp.log(jnp.maximum(score, jnp.finfo(score.dtype).tiny))
    if has_top:
      score = arrays.Relative(score, inputs["score_top"][:, None])
    indices, gains = selector.select_slates(
        inputs["features"], score, inputs["category_ids"],
        method=slates.method, rules=slates.rules, theta=inputs["theta"],
        where=inputs["where"], quotas=inputs["quotas"],
        shown_features=inputs["shown_features"])
    return {**scores, "indices": indices, "gains": gains}

  slots = (ROWS, slates.rules.num_selected)
  return Function(
      "select", call, _parameters(stages, front.kinds if front else ()), (
          *inputs,
          manifest.Field("where", "bool", lead, "True = there is a candidate"),
          manifest.Field("category_ids", "int32", lead,
                         "place of the category, -1 for none of the known"),
          manifest.Field("features", "float32", (*lead, num_features),
                         "of the items, of any length; 0 for none"),
          manifest.Field("theta", "float32", (ROWS,),
                         "weight of relevance against diversity, from 0 to 1"),
          manifest.Field("quotas", "int32", (ROWS, num_categories),
                         "at most so many items of each category"),
          manifest.Field(
              "shown_features", "float32", (ROWS, max_shown, num_features),
              "of items shown before, the newest last; 0 for none")), (
          *outputs,
          manifest.Field(
              "indices", "int32", slots,
              "candidates from the first slot on, -1 in empty slots"),
          manifest.Field("gains", "float32", slots,
                         "by which they were selected, 0 in empty slots")))


def _policy_function(
    policy: policy_lib.Policy, front: "_Front | None",
    stages: Sequence[models.Trained], max_shown: int,
) -> Function:
  """Slates by a policy, of scores that a request brings or that are made."""
  lead = (ROWS, CANDIDATES)
  made = ("scores", "log_value") if front else ()

  def call(parameters, inputs):
    trees, scores = models.nested(parameters), {}
    if front:
      scores = front.scores(trees, inputs)
      clicks = front.probability(policy.columns.score, scores, inputs)
      # Without an ensemble a click is all that counts.
      value = jnp.zeros_like(clicks) if front.ensemble is None else (
          policy_lib.value_of(scores["ranking_score"], clicks))
      inputs = {**inputs, "scores": clicks, "log_value": value}
    return scores | policy_lib.select(policy, trees[policy.KIND], inputs)

  return Function(
      "select", call,
      _parameters(stages, (*(front.kinds if front else ()), policy.KIND)), (
          *(front.inputs(lead) if front else ()),
          *(manifest.Field(*each)
            for each in policy_lib.inputs_of(policy, max_shown)
            if each[0] not in made)), (
          *(front.outputs(lead) if front else ()),
          *(manifest.Field(*each) for each in policy_lib.outputs_of(policy))))


def defaults(stages: Sequence[models.Trained]) -> dict[str, Any]:
  """What the runs used of what a request may choose, by the names of inputs.

  Quotas `[C]` of a run without any are as many as there are slots.
  """
  result: dict[str, Any] = {}
  ensemble = _model(stages, models.Ensemble)
  if ensemble is not None and ensemble.config.head == "aligned":
    result["objective_weights"] = list(ensemble.objective_weights)
  slates = _model(stages, models.Slates)
  if slates is not None:
    rules = slates.rules
    quotas = rules.quotas if rules.quotas is not None else (
        np.full(len(slates.categories), rules.num_selected))
    result |= {"theta": slates.theta, "quotas": quotas.tolist()}
  policy = _model(stages, policy_lib.Policy)
  if policy is not None:
    result |= {"theta": policy.theta, "quotas": [
        policy.simulator.num_slots] * len(policy.categories),
               "requests_today": 0.0, "since_last": 0.0}
    if policy.relevance == "pctr":
      result["log_value"] = 0.0
  return result


@dataclasses.dataclass(frozen=True)
class _Front:
  """Predictor, ensemble or both: from the columns of rows to scores."""

  predictor: models.Predictor | None
  ensemble: models.Ensemble | None
  request_columns: tuple[str, ...]

  @classmethod
  def of(
      cls, stages: Sequence[models.Trained],
      request_columns: tuple[str, ...] = (),
  ) -> "_Front | None":
    """These of the stages; None if there is neither."""
    predictor = _model(stages, models.Predictor)
    ensemble = _model(stages, models.Ensemble)
    if predictor is None and ensemble is None:
      return None
    return cls(predictor, ensemble, request_columns)

  @property
  def stages(self) -> list[models.Predictor | models.Ensemble]:
    """In the order of a request."""
    return [stage for stage in (self.predictor, self.ensemble) if stage]

  @property
  def kinds(self) -> tuple[str, ...]:
    """Of the stages."""
    return tuple(stage.KIND for stage in self.stages)

  def inputs(self, lead: tuple[str, ...]) -> tuple[manifest.Field, ...]:
    """Arrays with these leading axes; of requests, columns given once, too."""
    fields = []
    for stage in self.stages:
      for name, dtype, columns, meaning in (
          ("categorical", "int32", stage.schema.categorical,
           "places in the vocabularies, 0 = unknown or missing"),
          ("numeric", "float32", stage.schema.numeric,
           "encoded by the knots, 0 = missing")):
        each, once = self._split(columns)
        if len(lead) > 1:
          fields.append(_columns_field(
              f"{stage.KIND}.request_{name}", dtype, lead[:1],
              [columns[k] for k in once], meaning))
        else:
          each = list(range(len(columns)))
        fields.append(_columns_field(
            f"{stage.KIND}.{name}", dtype, lead, [columns[k] for k in each],
            meaning))
    if self.ensemble is None:
      return tuple(fields)
    names = self.ensemble.schema.names
    if self.predictor is None:
      fields += [
          manifest.Field("ensemble.scores", "float32", (*lead, len(names)),
                f"probabilities of {', '.join(names)}"),
          manifest.Field("ensemble.has_score", "bool", (*lead, len(names)),
                         "False = the score is missing")]
    if self.ensemble.config.head == "aligned":
      fields.append(manifest.Field(
          "objective_weights", "float32", (*lead[:-1], len(names)),
          f"what the AUCs of {', '.join(names)} are worth"))
    return tuple(fields)

  def outputs(self, lead: tuple[str, ...]) -> tuple[manifest.Field, ...]:
    """Arrays with these leading axes."""
    fields = []
    if self.predictor is not None:
      names = self.predictor.schema.names
      fields.append(manifest.Field(
          "objective_scores", "float32", (*lead, len(names)),
          f"probabilities of {', '.join(names)}"))
    if self.ensemble is not None:
      fields.append(manifest.Field(
          "ranking_score", "float32", lead, "higher is better"))
    return tuple(fields)

  def scores(
      self, parameters: Mapping[str, Any], inputs: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """The outputs, from trees of parameters by kind and the inputs."""
    outputs: dict[str, jax.Array] = {}
    if self.predictor is not None:
      logits = training.predict(
          parameters[models.Predictor.KIND],
          *self._columns(self.predictor, inputs), config=self.predictor.config)
      outputs["objective_scores"] = jax.nn.sigmoid(logits)
    if self.ensemble is None:
      return outputs
    if self.predictor is None:
      scores, present = inputs["ensemble.scores"], inputs["ensemble.has_score"]
    else:
      scores, present = self._joined(outputs["objective_scores"])
    weights = inputs.get("objective_weights")
    if weights is not None and weights.ndim > 1:
      weights = jnp.broadcast_to(weights[:, None], scores.shape)
    categorical, numeric = self._columns(self.ensemble, inputs)
    outputs["ranking_score"] = self.ensemble.ranker.mean_score(
        parameters[models.Ensemble.KIND],
        ranker_lib.Rows(None, scores, present, categorical, numeric), weights)
    return outputs

  def probability(
      self, column: str, outputs: Mapping[str, jax.Array],
      inputs: Mapping[str, jax.Array],
  ) -> jax.Array:
    """The scores of a column, NaN where there is none."""
    if self.predictor is not None:
      place = _names_of_scores(self.predictor).index(column)
      return outputs["objective_scores"][..., place]
    assert self.ensemble is not None
    place = [o.score for o in self.ensemble.schema.objectives].index(column)
    return jnp.where(inputs["ensemble.has_score"][..., place],
                     inputs["ensemble.scores"][..., place], jnp.nan)

  def _joined(
      self, probabilities: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Scores of the ensemble and which it has, of the predictor's."""
    assert self.predictor is not None and self.ensemble is not None
    columns, has_score = [], []
    for objective in self.ensemble.schema.objectives:
      has_score.append(objective.score is not None)
      place = _names_of_scores(self.predictor).index(
          objective.score) if objective.score else 0
      columns.append(probabilities[..., place])
    # As the scores of rows are encoded.
    scores = jnp.clip(
        jnp.stack(columns, axis=-1), encoding.LEAST_PROBABILITY,
        1 - encoding.LEAST_PROBABILITY)
    return scores, jnp.broadcast_to(jnp.asarray(has_score), scores.shape)

  def _columns(
      self, stage: models.Predictor | models.Ensemble,
      inputs: Mapping[str, jax.Array],
  ) -> tuple[jax.Array, jax.Array]:
    """Categorical and numeric columns in the order of the schema."""
    result = []
    for name, columns in (("categorical", stage.schema.categorical),
                          ("numeric", stage.schema.numeric)):
      array = inputs[f"{stage.KIND}.{name}"]
      once = inputs.get(f"{stage.KIND}.request_{name}")
      if once is not None:
        each_places, once_places = self._split(columns)
        once = jnp.broadcast_to(
            once[:, None], (*array.shape[:-1], len(once_places)))
        order = np.argsort(each_places + once_places)
        array = jnp.concatenate([array, once], axis=-1)[..., order]
      result.append(array)
    return result[0], result[1]

  def _split(self, columns: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of columns that candidates give, and of those given once."""
    places = range(len(columns))
    return ([k for k in places if columns[k] not in self.request_columns],
            [k for k in places if columns[k] in self.request_columns])


def _check_scores(
    predictor: models.Predictor, ensemble: models.Ensemble
) -> None:
  """Raises if the ensemble's scores are not those of the predictor."""
  known = _names_of_scores(predictor)
  columns = [o.score for o in ensemble.schema.objectives if o.score]
  for objective in ensemble.schema.objectives:
    if objective.score and objective.score not in known:
      raise schema_lib.DataError(
          f"the ensemble reads the score {objective.score!r}, which the "
          f"predictor does not make{schema_lib.nearest(objective.score, known)}"
          f"; it makes {', '.join(known)}.")
    if objective.score and (
        ensemble.features.score_scales[objective.name] is not None):
      raise schema_lib.DataError(
          f"the ensemble was trained on a score {objective.score!r} that is no "
          "probability, which those of a predictor are; train it on the scored "
          "log of the predictor.")
  if not columns:
    raise schema_lib.DataError(
        "the ensemble reads no score, so it does not go with a predictor.")


def _check_policy(
    policy: policy_lib.Policy, predictor: models.Predictor | None,
    ensemble: models.Ensemble | None,
) -> None:
  """Raises if what is in front of a policy does not make what it reads."""
  if ensemble is None and policy.relevance != "pctr":
    raise schema_lib.DataError(
        f"a policy of --relevance={policy.relevance} corrects more than a "
        "predicted click; add the run of an ensemble.")
  if ensemble and ensemble.config.head == "score":
    raise schema_lib.DataError(
        "the scores of an ensemble of --head=score may be below 0, and have "
        "no logarithm for a policy to correct; train one of --head=aligned.")
  known = []
  if predictor:
    known = _names_of_scores(predictor)
  elif ensemble:
    known = [o.score for o in ensemble.schema.objectives
             if o.score and ensemble.features.score_scales[o.name] is None]
  if policy.columns.score not in known:
    raise schema_lib.DataError(
        f"the policy corrects the probability {policy.columns.score!r}, which "
        f"is none of the scores before it: {', '.join(known) or 'none'}.")


def _check_columns(
    front: _Front | None, request_columns: Sequence[str]
) -> None:
  """Raises for a column of a request that no stage reads."""
  known = list(dict.fromkeys(
      column for stage in (front.stages if front else ())
      for column in (*stage.schema.categorical, *stage.schema.numeric)))
  for column in request_columns:
    if column not in known:
      raise schema_lib.DataError(
          f"no stage reads a profile column {column!r}"
          f"{schema_lib.nearest(column, known)}; there are "
          f"{', '.join(known) or 'none'}.")


def _names_of_scores(predictor: models.Predictor) -> list[str]:
  """Columns of the scored log that a predictor makes."""
  return [schema_lib.SCORE_PREFIX + name for name in predictor.schema.names]


def _columns_field(
    name: str, dtype: str, lead: tuple[str, ...], columns: Sequence[str],
    meaning: str,
) -> manifest.Field:
  return manifest.Field(name, dtype, (*lead, len(columns)),
               f"{', '.join(columns) or 'no column'}: {meaning}")


def _model(stages: Iterable[models.Trained], kind: type) -> Any:
  """The model of a kind, or None."""
  return next((trained.model for trained in stages
               if isinstance(trained.model, kind)), None)


def _parameters(
    stages: Iterable[models.Trained], kinds: Sequence[str]
) -> dict[str, np.ndarray]:
  """Parameters of the kinds, by names that begin with the kind."""
  return {f"{trained.model.KIND}/{name}": array
          for trained in stages if trained.model.KIND in kinds
          for name, array in trained.parameters.items()}
