# Trains and predicts on a CPU: docker build -t counterpoise . && docker run counterpoise trainer=cpu debug=fast
FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 COUNTERPOISE_CACHE=/cache
WORKDIR /app
COPY pyproject.toml setup.py README.md LICENSE ./
COPY conf conf
COPY src src
COPY train.py ./
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu ".[export]" \
    && useradd --create-home user && mkdir /cache outputs && chown user /cache outputs
USER user
VOLUME /cache /app/outputs
ENTRYPOINT ["python", "train.py"]
