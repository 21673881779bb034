#!/bin/bash
# One run of srdef on several machines under SLURM: one process for each machine, with all its accelerators.
#
#     sbatch --nodes=4 --gpus-per-node=8 scripts/slurm.sh evaluate imagenet.py --workdir=/shared/imagenet
#
# The workdir and the data must be on a file system that all machines share, and srdef on the PATH. A job that
# has been killed, for its time or by a machine that failed, continues when the same command is given again,
# also with another number of machines.

#SBATCH --job-name=srdef
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --output=srdef-%j.log
#SBATCH --open-mode=append

set -eu
# What sbatch was asked for, srun is not told by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-16}"
exec srun --label --kill-on-bad-exit=1 srdef "$@" --distributed
