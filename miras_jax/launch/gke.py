"""GKE: one JobSet, and Kueue's queue for it if asked for.

A slice is a Job, a VM a pod. A pod that ends with a status of RESTARTABLE fails its Job
and with it the JobSet, which starts again as a whole, up to maxRestarts times; any
other status than 0 is a mistake that no restart mends, and ends it. A pod whose node
goes is replaced only when it is gone itself (podReplacementPolicy).
"""

from miras_jax.errors import UserError
from miras_jax.launch import quote
from miras_jax.launch.job import PORT

# Beside the job's own status: HUP, abort (a process of the others is lost), bus error,
# kill (memory, or the grace period is over), segmentation fault, TERM before Python.
RESTARTABLE = (129, 134, 135, 137, 139, 143)
KEPT_S = 24 * 3600  # a finished JobSet, for whoever reads its logs
NODE_POOL = "cloud.google.com/gke-nodepool"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
KUEUE = "kueue.x-k8s.io/v1beta1"


def write(job) -> str:
  """The manifest, for `kubectl apply -f`."""
  if not job.image:
    raise UserError(
      "miras launch gke: --image=IMAGE is missing; launch/Dockerfile makes one"
    )
  parts = [_jobset(job)]
  if job.options.get("kueue"):
    if not job.options.get("queue"):
      raise UserError("--kueue writes a queue: name it with --queue=NAME")
    parts = [*_queue(job), *parts]
  machine = job.place.machine
  note = (
    f"nodes: {machine}, topology {job.place.layout}"
    if job.place.is_tpu
    else f"nodes: {machine} or like it, with {job.place.chips_per_vm} GPUs"
  )
  return job.header(note, "kubectl apply -f FILE") + quote.documents(*parts)


def _jobset(job):
  metadata = {"name": job.name}
  if namespace := job.options.get("namespace"):
    metadata["namespace"] = namespace
  if queue := job.options.get("queue"):
    metadata["labels"] = {"kueue.x-k8s.io/queue-name": queue}
  # A slice of several VMs is a node pool: one Job has it to itself. Slices of one VM
  # are nodes of one pool, where all but the first would wait for ever.
  if job.place.is_tpu and job.place.vms_per_slice > 1:
    topology = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    metadata["annotations"] = {topology: NODE_POOL}
  mistake = {"name": "mistake", "action": "FailJobSet"}
  mistake["onJobFailureReasons"] = ["PodFailurePolicy"]
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": metadata,
    "spec": {
      "failurePolicy": {"maxRestarts": job.restarts, "rules": [mistake]},
      "ttlSecondsAfterFinished": KEPT_S,
      "replicatedJobs": [
        {
          "name": _jobs_name(job.place),
          "replicas": job.place.slices if job.place.is_tpu else 1,
          "template": {"spec": _job(job)},
        }
      ],
    },
  }


def _jobs_name(place):
  return "slice" if place.is_tpu else "nodes"


def _job(job):
  """Spec of the Job of one slice, or of all GPU nodes."""
  pods = job.place.vms_per_slice if job.place.is_tpu else job.place.slices
  statuses = sorted({job.stopped, *RESTARTABLE})
  return {
    "parallelism": pods,
    "completions": pods,
    "completionMode": "Indexed",
    "backoffLimit": 0,
    "podReplacementPolicy": "Failed",
    "podFailurePolicy": {
      "rules": [
        {
          "action": "Ignore",
          "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
        {
          "action": "FailJob",
          "onExitCodes": {
            "containerName": "miras",
            "operator": "NotIn",
            "values": statuses,
          },
        },
      ]
    },
    "template": {"spec": _pod(job)},
  }


def _pod(job):
  account = job.options.get("service_account")
  return {
    "restartPolicy": "Never",
    "hostNetwork": True,
    "dnsPolicy": "ClusterFirstWithHostNet",
    "terminationGracePeriodSeconds": job.grace_s,
    **({"serviceAccountName": account} if account else {}),
    "nodeSelector": _node_labels(job.place) | _capacity(job.options),
    "tolerations": _tolerations(job),
    "containers": [_container(job)],
    "volumes": [
      {"name": "shm", "emptyDir": {"medium": "Memory"}},
      *(
        {
          "name": f"disk-{number}",
          "persistentVolumeClaim": {"claimName": volume.name},
        }
        for number, volume in enumerate(job.volumes)
      ),
    ],
  }


def _container(job):
  env = _coordinator(job) if not job.place.is_tpu and job.place.slices > 1 else []
  return {
    "name": "miras",
    "image": job.image,
    "command": quote.kubernetes(job.train),
    **({"env": env} if env else {}),
    "resources": {"limits": {_resource(job.place): job.place.chips_per_vm}},
    "volumeMounts": [
      {"name": "shm", "mountPath": "/dev/shm"},
      *(
        {"name": f"disk-{number}", "mountPath": volume.path}
        for number, volume in enumerate(job.volumes)
      ),
    ],
  }


def _coordinator(job):
  """Where GPU processes find each other; TPU hosts know."""
  index = {"fieldRef": {"fieldPath": INDEX}}
  first = f"{job.name}-{_jobs_name(job.place)}-0-0.{job.name}:{PORT}"
  return [
    {"name": "JAX_COORDINATOR_ADDRESS", "value": first},
    {"name": "JAX_NUM_PROCESSES", "value": str(job.place.slices)},
    {"name": "JAX_PROCESS_ID", "valueFrom": index},
  ]


def _resource(place):
  return "google.com/tpu" if place.is_tpu else "nvidia.com/gpu"


def _node_labels(place):
  if not place.is_tpu:
    return {"cloud.google.com/gke-accelerator": place.names.gke}
  return {
    "cloud.google.com/gke-tpu-accelerator": place.names.gke,
    "cloud.google.com/gke-tpu-topology": place.layout,
  }


def _capacity(options):
  """Labels of nodes that are bought in a certain way."""
  labels = {"cloud.google.com/gke-spot": "true"} if options.get("spot") else {}
  if reservation := options.get("reservation"):
    labels["cloud.google.com/reservation-name"] = reservation
  return labels


def _tolerations(job):
  found = [{"key": _resource(job.place), "operator": "Exists", "effect": "NoSchedule"}]
  if job.options.get("spot"):
    spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}
    found.append(spot | {"effect": "NoSchedule"})
  return found


def _queue(job):
  """Kueue's flavour, quota and queue: as many chips as this run takes."""
  name, resource = job.options["queue"], _resource(job.place)
  flavor = {
    "apiVersion": KUEUE,
    "kind": "ResourceFlavor",
    "metadata": {"name": name},
    "spec": {"nodeLabels": _node_labels(job.place) | _capacity(job.options)},
  }
  quota = {"name": resource, "nominalQuota": _chips(job.place)}
  cluster = {
    "apiVersion": KUEUE,
    "kind": "ClusterQueue",
    "metadata": {"name": name},
    "spec": {
      "namespaceSelector": {},
      "resourceGroups": [
        {
          "coveredResources": [resource],
          "flavors": [{"name": name, "resources": [quota]}],
        }
      ],
    },
  }
  local = {
    "apiVersion": KUEUE,
    "kind": "LocalQueue",
    "metadata": {"name": name, "namespace": job.options.get("namespace") or "default"},
    "spec": {"clusterQueue": name},
  }
  return [flavor, cluster, local]


def _chips(place):
  return place.chips_per_slice * place.slices
