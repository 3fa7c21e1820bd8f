# Two images from one file:
#
#   docker build --target frontend -t kandinsky-frontend .     the public API and the command line; no LibTorch
#   docker build --target worker   -t kandinsky-worker .       all three stages; --stage picks one
#
# Build arguments of the workers: TORCH=auto|cpu|cuda chooses the build of LibTorch as deploy/local/setup --torch does; cpu
# needs an index that offers it (PIP_EXTRA_INDEX_URL or PIP_INDEX_URL). Neither needs a CUDA toolkit or a GPU to build, and
# both images run without a GPU. Sizes: docs/operations.md. Settings: KANDINSKY_<FLAG> in the environment, see README.md.

FROM debian:12-slim AS source
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/kandinsky
COPY deploy/local/packages.txt deploy/local/packages.txt
# hadolint ignore=DL3008
RUN apt-get update \
    && sed -e 's/#.*//' deploy/local/packages.txt | xargs env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
       apt-get install -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/*

# --- frontend and command line: no LibTorch anywhere
FROM source AS frontend-build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY deploy/local/locked/common.txt deploy/local/locked/common.txt
# Of the Python packages it needs one, for its .proto files.
RUN python3 -m venv build/venv \
    && grep '^googleapis-common-protos===' deploy/local/locked/common.txt >build/requirements.txt \
    && build/venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r build/requirements.txt
COPY . .
RUN cmake --preset release -DKANDINSKY_WITH_TORCH=OFF -DKANDINSKY_BUILD_TESTS=OFF \
    && cmake --build --preset release --target kandinsky-frontend kandinsky \
    && strip build/release/bin/kandinsky-frontend build/release/bin/kandinsky

# --- workers
FROM source AS worker-build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG TORCH=auto
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY deploy/local deploy/local
# What pip downloaded would lie in the cache for nobody.
RUN PIP_NO_CACHE_DIR=1 deploy/local/setup --torch "$TORCH"
COPY . .
RUN cmake --preset release -DKANDINSKY_BUILD_TESTS=OFF \
    && cmake --build --preset release --target kandinsky-worker kandinsky-train kandinsky \
    && strip build/release/bin/kandinsky-worker build/release/bin/kandinsky-train build/release/bin/kandinsky
# Of LibTorch and NVIDIA's packages only what the programs load, at the paths that the programs know.
RUN deploy/image/libraries --venv build/venv --copy /image build/release/bin/kandinsky-worker build/release/bin/kandinsky-train

# --- images
FROM debian:12-slim AS runtime
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       ca-certificates tini libgrpc++1.51 libprotobuf32 libabsl20220623 libhiredis0.14 libspdlog1.10 \
       libprometheus-cpp-core1.0 libprometheus-cpp-pull1.0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/kandinsky --create-home kandinsky
ENV KANDINSKY_LOG_JSON=true
WORKDIR /var/lib/kandinsky
ENTRYPOINT ["/usr/bin/tini", "--"]
# A drain takes its time: see --drain_grace.
STOPSIGNAL SIGTERM

FROM runtime AS frontend
COPY --from=frontend-build /opt/kandinsky/build/release/bin/kandinsky-frontend /usr/local/bin/
COPY --from=frontend-build /opt/kandinsky/build/release/bin/kandinsky /usr/local/bin/
COPY models/tiny/model.json /models/tiny/model.json
ENV KANDINSKY_LISTEN=0.0.0.0:50051 \
    KANDINSKY_METRICS_LISTEN=0.0.0.0:9090 \
    KANDINSKY_MODEL_DIRS=/models/tiny
USER 10001
EXPOSE 50051 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["kandinsky", "status", "--health", "--server=127.0.0.1:50051"]
CMD ["kandinsky-frontend"]

FROM runtime AS worker
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       libavcodec59 libavformat59 libavutil57 libswscale6 libgomp1 libwebp7 libwebpdemux2 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /var/lib/kandinsky/spill
COPY --from=worker-build /image/ /
COPY models/tiny /models/tiny
COPY --from=worker-build /opt/kandinsky/build/release/bin/kandinsky-worker /usr/local/bin/
COPY --from=worker-build /opt/kandinsky/build/release/bin/kandinsky-train /usr/local/bin/
COPY --from=worker-build /opt/kandinsky/build/release/bin/kandinsky /usr/local/bin/
# NVIDIA's container runtime gives the driver's libraries for computing.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV KANDINSKY_LISTEN=0.0.0.0:50061 \
    KANDINSKY_METRICS_LISTEN=0.0.0.0:9090 \
    KANDINSKY_MODEL_DIRS=/models/tiny \
    KANDINSKY_SPILL_DIR=/var/lib/kandinsky/spill
USER 10001
VOLUME /var/lib/kandinsky/spill
EXPOSE 50061 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["kandinsky", "status", "--health", "--server=127.0.0.1:50061"]
CMD ["kandinsky-worker"]
