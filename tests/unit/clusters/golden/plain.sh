#!/bin/bash
# A job of Penstock: solve
#SBATCH --no-requeue
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --time=60

folder=/data/jobs/k1
workspace=""
items=1 cpus=1 minutes=60
python=python3
program=(solve job.json)
launch=()
copy=(penstock copy)
inputs=()
results=()
environment() {
  :
}
prologue() {
  :
}

(job.sh)
