# For GPUs: MindSpore 2.10 with CUDA 11.8, cuDNN 8 and Open MPI. The machine needs NVIDIA's driver and container toolkit.
#   docker build -t nasnet-a-mobile .
#   docker run --gpus all --shm-size 1g -v /path/to/imagenet:/imagenet -v /path/to/run:/run/nasnet nasnet-a-mobile \
#       sh scripts/run_distribute_train_for_gpu.sh /imagenet/train --ckpt_path /run/nasnet
# A linter has read this file. Nobody has built or run it yet.
FROM nvidia/cuda:11.8.0-cudnn8-runtime-ubuntu22.04
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cuda-nvcc-11-8 g++ openmpi-bin python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV CUDA_HOME=/usr/local/cuda VENV=/opt/venv
WORKDIR /opt/nasnet
COPY . .
RUN PIP_CONSTRAINT=constraints/3.10.txt PIP_NO_CACHE_DIR=1 sh scripts/setup.sh
ENV PATH=/opt/venv/bin:$PATH
