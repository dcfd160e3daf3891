# One image for the dashboard and the workers. The plain torch wheel brings CUDA: a GPU worker needs the
# NVIDIA container toolkit on its host and nothing else here.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HMS_TUNE_HOME=/var/lib/hms-tune

RUN useradd --create-home --uid 1000 hms \
    && install -d -o hms -g hms /var/lib/hms-tune /data /artifacts

WORKDIR /opt/hms-tune
COPY pyproject.toml README.md LICENSE ./
COPY hms_tune ./hms_tune
COPY studies ./studies
RUN pip install ".[onnx]"

USER hms
WORKDIR /home/hms
# A lost worker's trial is handed back on SIGTERM, which docker stop sends.
STOPSIGNAL SIGTERM
ENTRYPOINT ["hms-tune"]
CMD ["--help"]
