"""The ensemble network: heads, ablations, missing scores, weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sklearn_metrics

import harmonrank_jax
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import network

ROWS, OBJECTIVES, PROFILE = 12, 3, 4
ABLATIONS = {
    "full": {},
    "no relation-aware branch": {"relation_aware": False},
    "no relation-agnostic branch": {"relation_agnostic": False},
    "no self-attention": {"self_attention": False},
    "mixture of experts": {"fusion": "mixture_of_experts"},
}
CALIBRATION = {"scale", "shift", "base_rate", "pair_share"}
CASES = {(head, name): network.HarmonRankConfig(
    num_objectives=OBJECTIVES, head=head, token_size=8, **switches)
         for head in network.HEADS for name, switches in ABLATIONS.items()}
traces = []


def sample(seed=0):
  rng = np.random.default_rng(seed)
  return (np.float32(rng.uniform(0.02, 0.98, (ROWS, OBJECTIVES))),
          np.float32(rng.normal(size=(ROWS, PROFILE))))


def shapes_of(config, scores=None, profile=None):
  """Shapes of the parameters, without computing them."""
  default = sample()
  return jax.eval_shape(
      network.HarmonRank(config).init, jax.random.key(0),
      default[0] if scores is None else scores,
      default[1] if profile is None else profile)


@functools.cache
def random_params(config):
  """Parameters of which none is 0: as after training."""
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: np.float32(0.5 * rng.normal(size=x.shape)), shapes_of(config))
  params["params"]["base_rate"] = np.float32([0.3, 0.1, 0.6])
  params["params"]["pair_share"] = np.float32([1, 0.5, 0.8])
  return params


@functools.cache
def initial_params():
  """Parameters of the aligned head as training starts with them."""
  return jax.jit(network.HarmonRank(CASES["aligned", "full"]).init)(
      jax.random.key(0), *sample())


@jax.jit
def every_case(params, scores, profile, where):
  """Scores of all heads and ablations; gradients where nothing is off."""
  traces.append(1)
  outputs, gradients = {}, {}
  for case, config in CASES.items():
    apply = network.HarmonRank(config).apply
    outputs[case] = apply(params[case], scores, profile, where)
    head, name = case
    if name == "full":
      gradients[head] = jax.grad(lambda *x, apply=apply: jnp.dot(
          apply(*x, where), jnp.arange(1.0, ROWS + 1)), (0, 1, 2))(
              params[case], scores, profile)
  return outputs, gradients


def run_every_case(scores, profile, where=None):
  where = np.ones(scores.shape, bool) if where is None else where
  params = {case: random_params(config) for case, config in CASES.items()}
  return every_case(params, scores, profile, where)


def aligned_apply(params, scores, profile, weights):
  return network.HarmonRank(CASES["aligned", "full"]).apply(
      params, scores, profile, objective_weights=weights)


apply_weighted = jax.jit(aligned_apply)
apply_logits = jax.jit(lambda params, scores, profile: network.HarmonRank(
    CASES["aligned", "full"]).apply(
        params, scores, profile, method="objective_logits"))


def by_hand(params, scores, profile, weights):
  """The closed form with gains, written out."""
  p = 1 / (1 + np.exp(-np.float64(apply_logits(params, scores, profile))))
  rate = np.float64(params["params"]["base_rate"])
  share = np.float64(params["params"]["pair_share"])
  gain = np.exp(np.float64(params["params"][network.GAIN]))
  return (weights * gain * p / (share * rate * (1 - rate))).sum(axis=-1)


@pytest.mark.parametrize("head", network.HEADS)
def test_a_branch_that_is_off_has_no_parameters(head):
  branches = {"relation_aware", "relation_agnostic"}
  for name in set(ABLATIONS) - {"mixture of experts"}:
    params = shapes_of(CASES[head, name])["params"]
    off = {"no relation-aware branch": {"relation_aware"},
           "no relation-agnostic branch": {"relation_agnostic"}}.get(
               name, set())
    gain = {network.GAIN} if head == "aligned" else set()
    assert set(params) == CALIBRATION | gain | branches - off
    if "relation_aware" in params:
      assert ("self_attention" in params["relation_aware"]) == (
          name != "no self-attention")


@pytest.mark.slow
def test_every_ablation_runs_and_changes_the_score():
  outputs, _ = run_every_case(*sample())
  for (head, name), scores in outputs.items():
    assert scores.shape == (ROWS,)
    assert scores.dtype == jnp.float32
    assert np.isfinite(scores).all() and np.std(scores) > 0
    if name != "full":
      assert np.abs(scores - outputs[head, "full"]).max() > 0.01


def test_every_parameter_and_input_matters():
  for params, scores, profile in run_every_case(*sample())[1].values():
    assert (np.asarray(scores) != 0).any(axis=0).all()
    assert (np.asarray(profile) != 0).any(axis=0).all()
    dead = {jax.tree_util.keystr(path) for path, gradient
            in jax.tree_util.tree_leaves_with_path(params)
            if not np.any(gradient)}
    # The base rate is data; a softmax does not see what all keys share.
    assert {name for name in dead if "'key']['bias']" not in name} == {
        "['params']['base_rate']", "['params']['pair_share']"}


def test_garbage_in_missing_scores_changes_nothing():
  scores, profile = sample()
  where = np.random.default_rng(1).random(scores.shape) < 0.6
  where[0], where[1] = False, True
  expected = run_every_case(scores, profile, where)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(expected))
  for _, by_scores, _ in expected[1].values():
    assert (np.asarray(by_scores)[~where] == 0).all()
    assert (np.asarray(by_scores)[where] != 0).any()
  for garbage in (np.nan, np.inf, -1e30, 0.0, 1.0):
    jax.tree.map(
        np.testing.assert_array_equal, expected, run_every_case(
            np.where(where, scores, np.float32(garbage)), profile, where))


def test_a_missing_score_is_not_a_score():
  scores, profile = sample()
  where = np.ones(scores.shape, bool)
  where[:, 1] = False
  full, _ = run_every_case(scores, profile)
  result, gradients = run_every_case(scores, profile, where)
  for case, outputs in result.items():
    assert (np.abs(outputs - full[case]) > 1e-4).all()
  # No attention goes to its token.
  tokens = gradients["score"][0]["params"]["relation_aware"]["tokens"]
  for parameter in ("name_embedding", "slope", "bend"):
    assert (tokens[parameter][1] == 0).all()
    assert (tokens[parameter][::2] != 0).any()


def test_without_any_score_only_the_profile_counts():
  scores, profile = sample()
  profile[1] = profile[0]
  result = run_every_case(scores, profile, np.zeros(scores.shape, bool))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))
  for outputs in result[0].values():
    assert outputs[0] == outputs[1]


def test_one_trace():
  for seed in range(3):
    run_every_case(*sample(seed))
  assert len(traces) == 1


def test_starts_as_the_closed_form_of_the_calibrated_scores():
  scores, profile = sample()
  params = initial_params()
  platt = calibration.Calibration(
      jnp.array([0.5, 1.0, 2.0]), jnp.array([-1.0, 0.0, 0.3]),
      jnp.array([0.2, 0.05, 0.7]), jnp.ones(3), jnp.array([1, 0.5, 1]))
  fitted = network.with_platt(params, platt)
  np.testing.assert_array_equal(params["params"]["scale"], [1, 1, 1])
  weights = jnp.array([1.0, 0.5, 3.0])
  expected = calibration.platt_score(platt, scores, weights)
  np.testing.assert_allclose(
      apply_weighted(fitted, scores, profile, weights), expected, rtol=1e-5)
  # Without a fit, a score is its own calibration.
  np.testing.assert_allclose(
      apply_weighted(params, scores, profile, weights),
      4 * scores @ weights, rtol=1e-5)


def test_weights_are_an_argument_of_the_aligned_head():
  scores, profile = sample()
  params = random_params(CASES["aligned", "full"])
  for weights in ([1, 1, 1], [0, 1, 0], [0.2, 3, 0.5]):
    np.testing.assert_allclose(
        apply_weighted(params, scores, profile, np.float32(weights)),
        by_hand(params, scores, profile, weights), rtol=1e-5)
  outputs, _ = run_every_case(scores, profile)
  np.testing.assert_allclose(
      outputs["aligned", "full"],
      by_hand(params, scores, profile, [1, 1, 1]), rtol=1e-5)


def test_weights_of_the_gate_begin_at_one_and_never_overflow():
  # A rank loss does not hold the scale of a score: weights may become large.
  case = "score", "no relation-aware branch"
  params = jax.tree.map(np.copy, random_params(CASES[case]))
  inner = params["params"]
  scores, profile = sample()
  logit = np.log(scores / (1 - scores)) * inner["scale"] + inner["shift"]
  rate = inner["base_rate"]
  lift = logit - np.log(rate / (1 - rate))
  layer = inner["relation_agnostic"]["gate_out"]
  layer["kernel"] *= 0
  apply = jax.jit(network.HarmonRank(CASES[case]).apply)
  for bias, weight in ((0, 1), (400, 400), (-400, 0)):
    layer["bias"][:] = bias
    np.testing.assert_allclose(
        apply(params, scores, profile), weight * lift.mean(axis=-1),
        rtol=0.01, atol=1e-5)


def test_weights_may_differ_by_row():
  scores, profile = sample()
  params = random_params(CASES["aligned", "full"])
  weights = np.random.default_rng(1).random((ROWS, OBJECTIVES))
  np.testing.assert_allclose(
      apply_weighted(params, scores, profile, np.float32(weights)),
      by_hand(params, scores, profile, weights), rtol=1e-5)


@pytest.mark.slow
def test_leading_axes_eager_and_vmap_agree():
  scores, profile = sample()
  where = np.random.default_rng(1).random(scores.shape) < 0.6
  flat, _ = run_every_case(scores, profile, where)
  rows = lambda x: x.reshape(3, 4, -1)
  lists = rows(scores), rows(profile), rows(where)
  apply = {head: functools.partial(
      network.HarmonRank(CASES[head, "full"]).apply,
      random_params(CASES[head, "full"])) for head in network.HEADS}
  every_head = jax.jit(lambda *lists: {
      head: (apply[head](*lists), jax.vmap(apply[head])(*lists))
      for head in network.HEADS})
  for head, results in every_head(*lists).items():
    for actual in results:
      assert actual.shape == (3, 4)
      np.testing.assert_allclose(
          actual.reshape(-1), flat[head, "full"], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
      apply["aligned"](scores, profile, where), flat["aligned", "full"],
      rtol=1e-5, atol=1e-5)
  # One mask of the objectives may hold for all rows.
  assert jax.eval_shape(
      apply["score"], scores, profile, where[0]).shape == (ROWS,)


def test_one_objective_and_no_profile():
  scores = np.linspace(0.1, 0.9, 7, dtype=np.float32)[:, None]
  profile = np.zeros((7, 0), np.float32)
  rng = np.random.default_rng(0)
  apply = []
  for head in network.HEADS:
    config = dataclasses.replace(CASES[head, "full"], num_objectives=1)
    params = jax.tree.map(
        lambda x: np.float32(rng.uniform(0.1, 0.4, x.shape)),
        shapes_of(config, scores, profile))
    apply.append(functools.partial(network.HarmonRank(config).apply, params))
  for outputs in jax.jit(lambda *x: [f(*x) for f in apply])(scores, profile):
    assert outputs.shape == (7,)
    assert np.isfinite(outputs).all() and np.std(outputs) > 0


@pytest.mark.parametrize("options, message", [
    ({"num_objectives": 0}, "num_objectives must be at least 1, got 0"),
    ({"head": "sum"}, "head must be one of aligned, score, got 'sum'"),
    ({"token_size": 7}, "token_size.*7 and 2"),
    ({"relation_aware": False, "relation_agnostic": False},
     "relation_aware and relation_agnostic"),
])
def test_configurations_that_cannot_be(options, message):
  with pytest.raises(ValueError, match=message):
    network.HarmonRankConfig(**{"num_objectives": 2} | options)


def test_errors_name_the_argument():
  scores, profile = sample()
  with pytest.raises(ValueError, match=r"objective_scores.*\(12, 2\).*3"):
    shapes_of(CASES["aligned", "full"], scores[:, :2])
  with pytest.raises(ValueError, match=r"profile.*\(11, 4\).*\(12, 3\)"):
    shapes_of(CASES["score", "full"], scores, profile[:11])
  for name in ("where", "objective_weights"):
    with pytest.raises(ValueError, match=rf"{name} has shape \(2,\).*\(3,\)"):
      jax.eval_shape(lambda name=name: network.HarmonRank(
          CASES["aligned", "full"]).apply(
              random_params(CASES["aligned", "full"]), scores, profile,
              **{name: np.ones(2, np.float32)}))
  config = CASES["score", "full"]
  model, params = network.HarmonRank(config), random_params(config)
  with pytest.raises(ValueError, match=r"objective_weights.*head='aligned'"):
    jax.eval_shape(lambda: model.apply(
        params, scores, profile, objective_weights=np.ones(3)))
  with pytest.raises(ValueError, match="head='aligned'"):
    jax.eval_shape(lambda: model.apply(
        params, scores, profile, method="objective_logits"))


def test_profiles_are_embeddings_beside_numbers():
  encoder = network.ProfileEncoder(vocabulary_sizes=(3, 50), embedding_size=8)
  categorical = np.array([[[0, 49], [2, 0]], [[0, 0], [2, 49]]])
  numeric = np.float32(np.arange(8).reshape(2, 2, 2))
  params = encoder.init(jax.random.key(0), categorical, numeric)
  tables = params["params"]
  # No wider than the vocabulary; entry 0, the unknown, is learned as well.
  assert tables["embedding_0"]["embedding"].shape == (3, 3)
  assert tables["embedding_1"]["embedding"].shape == (50, 8)
  profile = encoder.apply(params, categorical, numeric)
  expected = np.concatenate(
      [numeric, *(tables[f"embedding_{c}"]["embedding"][categorical[..., c]]
                  for c in range(2))], axis=-1)
  np.testing.assert_array_equal(profile, expected)
  assert (profile[0, 0] != profile[0, 1]).all()


def test_a_profile_without_columns_is_empty():
  encoder = network.ProfileEncoder(vocabulary_sizes=())
  nothing = np.zeros((5, 0), np.int32), np.zeros((5, 0), np.float32)
  params = encoder.init(jax.random.key(0), *nothing)
  assert not jax.tree.leaves(params)
  assert encoder.apply(params, *nothing).shape == (5, 0)


def test_learns_what_the_scores_miss():
  # The profile decides which way a score points.
  rng = np.random.default_rng(0)
  shape = (2, 60, 16)  # Lists to train on, and as many to test on.
  profile = np.float32(rng.normal(size=(*shape, PROFILE)))
  logits = 1.5 * rng.normal(size=(*shape, OBJECTIVES))
  truth = 2 * logits * np.tanh(2 * profile[..., :1]) - [0, 1, 2]
  labels = rng.random(truth.shape) < 1 / (1 + np.exp(-truth))
  scores = np.float32(1 / (1 + np.exp(-logits)))
  optimizer, weights = optax.adam(0.03), np.float32([1, 2, 1])

  @jax.jit
  def step(params, state, scores, profile, labels):
    def loss(params):
      outputs = aligned_apply(params, scores, profile, weights)
      return harmonrank_jax.multi_objective_auc_loss(
          outputs, labels, objective_weights=weights)[0], outputs

    gradient, outputs = jax.grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, outputs

  def exact_auc(params):
    outputs = step(params, state, scores[1], profile[1], labels[1])[2]
    return np.average([sklearn_metrics.roc_auc_score(
        labels[1, ..., m].ravel(), np.ravel(outputs))
                       for m in range(OBJECTIVES)], weights=weights)

  params = initial_params()
  state = optimizer.init(params)
  start = exact_auc(params)
  for _ in range(30):
    params, state, _ = step(params, state, scores[0], profile[0], labels[0])
  assert exact_auc(params) > start + 0.1
