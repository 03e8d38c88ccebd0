"""Fields of a JobSet and of Kueue's objects: what there is, its type, what must be.

JobSet has no schema in the registry of Kubernetes, so this is our own, from its API
reference (v1alpha2); of the Job within, `kubernetes-validate` is the judge.
"""

import re

JOB = "a Job's spec"
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
RULE = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
ACTIONS = {
  "FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob",
  "RestartJobAndIgnoreMaxRestarts",
}  # fmt: skip
REASONS = {
  "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes",
  "MaxFailedIndexesExceeded", "PodFailurePolicy",
}  # fmt: skip
METADATA = {"name!": NAME, "namespace": NAME, "labels": {str: str},
            "annotations": {str: str}}  # fmt: skip
# A key with ! has to be there. A type, a pattern, {values}, [of items], {fields}.
JOBSET = {
  "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
  "kind!": {"JobSet"},
  "metadata!": METADATA,
  "spec!": {
    "failurePolicy": {
      "maxRestarts": int,
      "rules": [
        {
          "name!": RULE,
          "action!": ACTIONS,
          "onJobFailureReasons": [REASONS],
          "targetReplicatedJobs": [NAME],
        }
      ],
    },
    "ttlSecondsAfterFinished": int,
    "suspend": bool,
    "replicatedJobs!": [
      {
        "name!": NAME,
        "replicas": int,
        "template!": {"metadata": METADATA, "spec!": JOB},
      }
    ],
  },
}
KUEUE = {
  "ResourceFlavor": {"nodeLabels": {str: str}},
  "ClusterQueue": {
    "namespaceSelector!": {},
    "resourceGroups!": [
      {
        "coveredResources!": [str],
        "flavors!": [
          {"name!": NAME, "resources!": [{"name!": str, "nominalQuota!": int}]}
        ],
      }
    ],
  },
  "LocalQueue": {"clusterQueue!": NAME},
}
FIELDS = {"JobSet": JOBSET} | {
  kind: {
    "apiVersion!": {"kueue.x-k8s.io/v1beta1"},
    "kind!": {kind},
    "metadata!": METADATA,
    "spec!": spec,
  }
  for kind, spec in KUEUE.items()
}


def problems(value, want, at="") -> list[str]:
  """What of a parsed document is not as the table has it."""
  if want is JOB:
    return [] if isinstance(value, dict) else [f"{at}: no Job"]
  if isinstance(want, dict):
    return _of_object(value, want, at)
  if isinstance(want, list):
    if not isinstance(value, list) or not value:
      return [f"{at}: no list"]
    return [p for i, v in enumerate(value) for p in problems(v, want[0], f"{at}[{i}]")]
  if isinstance(want, set):
    return [] if value in want else [f"{at}: {value!r} is not of {sorted(want)}"]
  if isinstance(want, re.Pattern):
    good = isinstance(value, str) and len(value) <= 63 and want.fullmatch(value)
    return [] if good else [f"{at}: {value!r}"]
  return [] if type(value) is want else [f"{at}: {value!r} is no {want.__name__}"]


def _of_object(value, want, at):
  if not isinstance(value, dict):
    return [f"{at}: no object"]
  if str in want:
    return [p for k, v in value.items() for p in problems(v, want[str], f"{at}.{k}")]
  types = {name.rstrip("!"): kind for name, kind in want.items()}
  found = [f"{at}.{k}: no such field" for k in value.keys() - types.keys()]
  needed = {name[:-1] for name in want if name.endswith("!")}
  found += [f"{at}.{k}: missing" for k in needed - value.keys()]
  for name, kind in types.items():
    if name in value:
      found += problems(value[name], kind, f"{at}.{name}")
  return found
