"""Studies: the methods and conditions there are."""

import dataclasses

import pytest

from experiments.comparison import studies
from experiments.ranker import objectives


def test_studies_name_what_there_is():
  assert studies.DEFAULT_NETWORK in studies.METHODS
  for study in studies.STUDIES.values():
    assert set(study.methods) <= set(studies.METHODS)
    assert studies.DEFAULT_NETWORK in study.methods
    names = [condition.name for condition in study.conditions]
    assert len(set(names)) == len(names)
  for name, method in studies.METHODS.items():
    assert method.loss in objectives.LOSSES
    assert method.network(3).num_objectives == 3
    assert studies.kind_of(name) in ("ours", "baseline", "ablation")
  # Each ablation lacks one part of the default, and nothing else.
  default = studies.METHODS[studies.DEFAULT_NETWORK]
  for part in ("relation_aware", "relation_agnostic", "self_attention"):
    method = studies.METHODS[f"without_{part}"]
    assert method.loss == default.loss
    assert method.network(2) == dataclasses.replace(
        default.network(2), **{part: False})


@pytest.mark.parametrize("name, kind", [
    ("closed_form", "baseline"), ("ceiling", "ceiling"),
    ("score_pairwise", "baseline"), ("mixture_of_experts", "baseline"),
    ("score_soft_auc", "ours"), ("aligned_soft_auc", "ours"),
    ("aligned_bce", "ablation"), ("without_self_attention", "ablation"),
    ("score_balanced_bce_average", "baseline"),
    ("aligned_soft_auc_average", "ours")])
def test_kinds(name, kind):
  assert studies.kind_of(name) == kind


def test_methods_that_make_no_sense_are_left_out():
  study = studies.STUDIES["batch_size"]
  assert study.trained(4096) == study.methods
  assert set(study.methods) - set(study.trained(4097)) == {"score_pairwise"}


def test_lists_change_no_loss_that_ranks_nothing():
  study = studies.STUDIES["lists"]
  batch, user, _ = study.conditions
  elsewhere = {name for name in study.methods
               if study.home(user, name) != user}
  assert elsewhere == {"score_bce", "score_balanced_bce",
                       "mixture_of_experts", "aligned_bce"}
  assert {study.home(user, name) for name in elsewhere} == {batch}
  thinned = studies.STUDIES["skew"]
  assert all(thinned.home(condition, name) == condition
             for condition in thinned.conditions for name in thinned.methods)
