"""A number that is not finite: nothing is learned from it, and it is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.reranker import finite
from tests.reranker import toys

UNTOUCHED = ("params", "opt_state", "statistics", "returns", "constraint")


def spoiled(steps, name, place, value):
  array = np.array(getattr(steps, name))
  array[place] = value
  return steps._replace(**{name: array})


def first_where(steps, name):
  """The first step and environment at which a flag is True."""
  return tuple(int(x[0]) for x in np.nonzero(np.asarray(getattr(steps, name))))


def assert_refused(learner, steps, said, settings=toys.SETTINGS):
  after, diagnostics = toys.improve(learner, steps, settings)
  with pytest.raises(ValueError, match=said):
    finite.check_finite(diagnostics.bad)
  for name in UNTOUCHED:
    toys.assert_equal(getattr(after, name), getattr(learner, name))
  assert after.num_updates == learner.num_updates + 1
  return after


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name, place, said", [
    ("observation", (3, 5, 2), "observation 2 is {} in environment 5 at step "
     "3 of the update; nothing"),
    ("reward", (0, 7, 1), "reward 1 is {} in environment 7 at step 0"),
    ("cost", (11, 0, 0), "cost 0 is {} in environment 0 at step 11"),
    ("counted", (4, 4, 0), "counted 0 is {} in environment 4 at step 4")],
    ids=["observation", "reward", "cost", "counted"])
def test_nothing_is_learned_from_a_bad_number(name, place, said, value):
  learner, steps = toys.collected()
  after = assert_refused(
      learner, spoiled(steps, name, place, value), said.format(value))
  # The next update is one as ever.
  _, diagnostics = toys.improve(after, steps)
  finite.check_finite(diagnostics.bad)
  assert diagnostics.num_actor_steps > 0


def test_flags_tell_what_is_masked():
  learner, steps = toys.collected()
  step, environment = first_where(steps, "where")
  place = f"in environment {environment} at step {step}"
  assert_refused(learner, spoiled(
      steps, "action", (step, environment, 1), np.nan), f"action 1 .*{place}")
  assert_refused(learner, spoiled(
      steps, "log_prob", (step, environment), np.inf),
                 f"log-probability 0 is inf {place}")
  step, environment = first_where(steps, "truncated")
  assert_refused(learner, spoiled(
      steps, "final_values", (step, environment, 2), np.nan),
                 f"value where truncated 2 .*environment {environment} at")


def test_the_observation_after_the_last_step_counts():
  learner, steps = toys.collected()
  observation = np.array(learner.result.observation)
  observation[9, 1] = np.nan
  assert_refused(
      learner._replace(result=learner.result._replace(observation=observation)),
      steps, f"observation 1 is nan in environment 9 at step {toys.STEPS}")


def test_the_first_of_many_is_named():
  learner, steps = toys.collected()
  steps = spoiled(steps, "cost", (0, 0, 0), np.nan)
  steps = spoiled(steps, "reward", (slice(2, None), slice(3, None)), np.inf)
  assert_refused(learner, steps, "reward 0 is inf in environment 3 at step 2")


def test_numbers_too_large_to_square_are_no_better():
  learner, steps = toys.collected()
  assert_refused(learner, spoiled(steps, "reward", (1, 1, 1), 1e30),
                 "variance of return 1 is inf in the update; nothing")


def test_the_first_minibatch_is_looked_at():
  # All that is collected is finite, and so is the divergence at first.
  learner, steps = toys.collected()
  weights = jnp.array([jnp.nan, 0.5])
  assert_refused(learner, steps, "gradient of the actor 0 is nan",
                 toys.SETTINGS._replace(reward_weights=weights))


def test_the_learner_is_named_where_there_are_many():
  learner, steps = toys.collected()
  good = toys.improve(learner, steps)[1].bad
  bad = toys.improve(
      learner, spoiled(steps, "reward", (0, 7, 1), np.nan))[1].bad
  stacked = jax.tree.map(lambda *x: jnp.stack(x), good, bad, good)
  with pytest.raises(ValueError, match="of the update of learner 1; nothing"):
    finite.check_finite(stacked)
  finite.check_finite(jax.tree.map(lambda *x: jnp.stack(x), good, good))
