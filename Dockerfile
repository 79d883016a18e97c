# histo in a slim image, run as a user without root rights. Never built so far: no Docker daemon was
# at hand. See docs/installing.md for how to run it.
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY app app
# For a machine without GPUs: --build-arg INDEX="--index-url https://download.pytorch.org/whl/cpu"
ARG INDEX=""
RUN pip install --no-cache-dir $INDEX torch torchvision \
    && pip install --no-cache-dir .
# A user of any number may run it (docker run -u): caches go where everyone can write.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --uid 1000 histo
USER histo
WORKDIR /work
ENTRYPOINT ["histo"]
