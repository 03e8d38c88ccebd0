"""Packages, dependencies and the `miras` command. Ranges hold for jax 0.10 to 0.12."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent
README = ROOT / "README.md"

REQUIRES = [
  "jax>=0.10,<0.13",
  "flax>=0.12,<0.13",
  "optax>=0.2.5,<0.3",
  "orbax-checkpoint>=0.11.20,<0.13",
  "etils[epath]>=1.12,<2",
  "fsspec>=2024.6",  # epath's own way into buckets
  "tensorstore>=0.1.71,<0.2",  # what a checkpoint lacks is named by its own index
  "grain>=0.2.12,<0.3",
  "array_record>=0.8,<0.9",
  "ijson>=3.3,<4",
  # Public data sets will be read through it; no module imports it yet.
  "tensorflow-datasets>=4.9.8,<5",
  "ml-collections>=1.0,<2",
  "ml-dtypes>=0.5,<1",
  "transformers>=5.0,<6",
  "tokenizers>=0.22,<0.24",
  "sentencepiece>=0.2,<0.3",
  "jinja2>=3.1,<4",  # transformers' chat templates need it
  "pyyaml>=6.0,<7",  # YOLO's data.yaml
  "safetensors>=0.5,<1",
  "numpy>=2.0,<3",
  "pillow>=11,<14",
  "opencv-python-headless>=4.11,<6",
  "simplejpeg>=1.8,<2",
  "scikit-image>=0.25,<1",
  "tensorboardX>=2.6,<3",
  "tqdm>=4.66,<5",
]

# `miras eval`: text metrics and the curves of its report.
EVAL = ["sacrebleu>=2.4,<3", "rouge-score>=0.1.2,<1", "matplotlib>=3.9,<4"]
# `miras eval --meteor`, which needs Java as well.
METEOR = ["pycocoevalcap>=1.2,<2"]
# `miras scale` without its compiler: laws and plots.
STUDY = ["scipy>=1.13,<2", "matplotlib>=3.9,<4"]
# `miras serve`: web framework, its server, forms, counters.
SERVE = [
  "fastapi>=0.115,<1",
  "uvicorn>=0.30,<1",
  "h11>=0.14,<1",  # comes with uvicorn
  "python-multipart>=0.0.12,<1",
  "prometheus-client>=0.20,<1",
  "starlette>=0.40,<2",  # these three come with fastapi
  "pydantic>=2.7,<3",
  "anyio>=4.4,<5",
]
# `miras judge`: any OpenAI-compatible endpoint.
LLM = ["openai>=1.60,<4", "httpx>=0.27,<1", "tenacity>=9.0,<10", "pydantic>=2.7,<3"]

# gs://: runs, data and results in buckets of Google Cloud Storage.
GCS = ["gcsfs>=2025.3", "google-cloud-storage>=2.18,<4"]

EXTRAS = {
  "tpu": ["jax[tpu]>=0.10,<0.13"],
  "gpu": ["jax[cuda13]>=0.10,<0.13"],
  "eval": EVAL,
  "meteor": METEOR,
  "serve": SERVE,
  "llm": LLM,
  "gcs": GCS,
  # libtpu is the TPU compiler: it runs on any Linux machine.
  "scale": [*STUDY, "libtpu>=0.0.42,<0.1"],
  # `mkdocs build`: the pages of docs/ as a site (mkdocs.yml).
  "docs": [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.6,<10",
    "mkdocstrings[python]>=0.29,<2",
  ],
  # `config.boards`: where else the numbers of a run go.
  "wandb": ["wandb>=0.19,<1"],
  "mlflow": ["mlflow-skinny>=2.15,<4"],
  # The other side of `miras bench` and of the live parity tests.
  "torch": ["torch>=2.9,<3"],
  "test": [
    *EVAL,
    *METEOR,
    *STUDY,
    *SERVE,
    *LLM,
    *GCS,
    "gcp-storage-emulator>=2026.7",  # a bucket on loopback
    "httpx>=0.27,<1",  # FastAPI's own test client needs it
    "playwright>=1.45,<2",  # drives the machine's Chromium, if there is one
    "pytest>=8.3,<10",
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6.120,<7",
    "kubernetes-validate>=1.30",  # schemas of every Kubernetes, by its version
    "pycocotools>=2.0.8,<3",
    "ruff>=0.12,<0.18",
  ],
}

setuptools.setup(
  name="miras_jax",
  version="0.1.0",
  description="Multi-turn conversation to pixels: MIRAS in JAX, Flax and Grain",
  long_description=README.read_text() if README.exists() else "",
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(
    include=[
      "miras_jax",
      "miras_jax.*",
      "configs",
      "configs.*",
      "input_pipeline",
      "input_pipeline.*",
    ]
  ),
  package_data={
    "": ["*.json", "*.jinja", "*.html", "*.css", "*.js", "*.txt", "*.md"],
    "miras_jax.evaluation": ["suites/*"],
    "miras_jax.serving": ["static/*"],
    "miras_jax": ["demo/*", "demo/model/*", "demo/model/*/*"],
  },
  install_requires=REQUIRES,
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["miras = miras_jax.cli:entry"]},
)
