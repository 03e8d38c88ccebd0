import pytest

from miras_jax.parallel import gathered

GIB = 2**30


@pytest.mark.parametrize(
  "choice, needed, kept",
  [("auto", 17, True), ("auto", 20, False), ("on", 20, True), ("off", 1, False)],
)
def test_auto_keeps_what_leaves_room_for_activations(choice, needed, kept):
  where = {"needed": needed * GIB, "capacity": 31 * GIB}
  assert gathered.keep(choice, fsdp=16, accumulation=10, **where) is kept


@pytest.mark.parametrize("fsdp, accumulation", [(1, 10), (16, 1)])
def test_one_use_a_step_or_nothing_cut_leaves_nothing_to_keep(fsdp, accumulation):
  where = {"needed": 1, "capacity": GIB}
  assert not gathered.keep("on", fsdp=fsdp, accumulation=accumulation, **where)


def test_a_memory_that_is_not_known_keeps_nothing_by_itself():
  where = {"fsdp": 2, "accumulation": 2, "needed": 1, "capacity": None}
  assert not gathered.keep("auto", **where) and gathered.keep("on", **where)
