# The image of the docker and kubernetes work pools of prefect.yaml:  docker build --tag diva-grpo .
# It curates and has no torch. For the flow `evaluate`, or labels by a local policy, add the extra `train` below.
FROM python:3.11-slim

WORKDIR /opt/diva-grpo
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY diva_grpo diva_grpo
COPY schemas schemas
COPY pipeline pipeline
COPY trainer trainer
COPY flows flows
COPY data data
RUN pip install --no-cache-dir --constraint constraints.txt ".[flows,s3,ray]"

# Stores are mounted here; runs write as this user.
RUN useradd --create-home --uid 1000 diva && mkdir /data && chown diva /data
USER diva
WORKDIR /data
ENV PREFECT_SERVER_ANALYTICS_ENABLED=false RAY_USAGE_STATS_ENABLED=0

# A work pool gives its own command.
CMD ["diva", "--help"]
