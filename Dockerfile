# One image for the dashboard and the workers. The plain torch wheel brings CUDA: a GPU worker needs the
# NVIDIA container toolkit on its host and nothing else here.
#
#   docker build --build-arg UID=$(id -u) --build-arg GID=$(id -g) --tag hms-tune .
#
# The base is named by its tag, not by a digest: a digest keeps last year's holes of Debian until somebody raises
# it by hand. Who needs the same image twice keeps the built one, by its own digest.
FROM python:3.12-slim

ARG UID=1000
ARG GID=1000

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HMS_TUNE_HOME=/var/lib/hms-tune \
    HMS_TUNE_ARTIFACTS=/artifacts \
    HF_HOME=/var/cache/huggingface

# Named volumes take their owner from these folders. Any other user may run the image, too, with volumes of its own.
RUN groupadd --gid "$GID" --non-unique hms \
    && useradd --create-home --uid "$UID" --gid "$GID" --non-unique hms \
    && install -d -o hms -g hms /var/lib/hms-tune /var/cache/huggingface /data /artifacts

WORKDIR /opt/hms-tune
COPY pyproject.toml README.md LICENSE ./
COPY hms_tune ./hms_tune
COPY studies ./studies
RUN pip install ".[onnx,kaggle,s3]"

USER hms
WORKDIR /home/hms
# A worker hands its trial back on SIGTERM, which docker stop sends, and ends with exit status 75.
STOPSIGNAL SIGTERM
# Of a worker, which shows every ten seconds that it lives; docker-compose.yml asks the dashboard in another way.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=4 \
    CMD test -n "$(find "$HMS_TUNE_HOME/alive/$(hostname)" -newermt '2 minutes ago')"
ENTRYPOINT ["hms-tune"]
CMD ["--help"]
