"""From the seconds of each unit to those of a step, and what follows from them."""

NEAR = 0.9  # of a device's memory: more may not fit with other data


def rates(entry, times, peak_flops):
  """The rows of scale.json that follow from {unit: seconds}."""
  name = max(times, key=times.get)
  step = times[name]
  return {
    "times_s": times,
    "bound": name,
    "step_time_bound_s": step,
    "step_time_no_overlap_s": sum(times.values()),
    "mfu_ceiling": entry["flops_useful"] / peak_flops / step if step else None,
    "rows_per_s": entry["batch_size"] / step if step else None,
    "examples_per_s": entry["batch_size"] * entry["pack"] / step if step else None,
    "tokens_per_s": entry["tokens_per_step"] / step if step else None,
  }
