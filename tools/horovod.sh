#!/usr/bin/env bash
# Builds Horovod's PyTorch part (Gloo, CPU, without MPI) from its source release against the torch of a Python, and installs it there.
#   tools/horovod.sh .venv/bin/python
# The release (2023) asks for C++14 and torch's headers for C++17; this changes those two lines and nothing else. Needs g++, make and,
# for its CMake below version 4, the package index. The wheel fits one version of torch and Python, and is kept in $OFA_WHEELS
# (default ~/.cache/ofa-cluster/wheels), from where the next call installs it.
set -euo pipefail
python=$(realpath -s "${1:?give the Python to install into}")
constraints=$(realpath "$(dirname "$0")/../constraints.txt")
release=0.28.1
sha256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
for tool in g++ make; do
  command -v $tool >/dev/null || { echo "horovod: $tool is missing, which compiles it (on Debian: apt-get install g++ make)"; exit 1; }
done
torch=$("$python" -c 'import sys, torch; print("torch-%s-python-%d.%d" % (torch.__version__, *sys.version_info[:2]))')
wheels=${OFA_WHEELS:-$HOME/.cache/ofa-cluster/wheels}/horovod-$release-$torch
if ! compgen -G "$wheels/horovod-*.whl" >/dev/null; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo "horovod: building $release for $torch, about two minutes on two cores"
  pip() { "$python" -m pip "$@" --quiet --disable-pip-version-check; }
  pip install --target "$work/tools" 'cmake>=3.13,<4' 'setuptools>=77,<81' wheel packaging
  export PYTHONPATH=$work/tools PATH=$work/tools/bin:$(dirname "$python"):$PATH
  pip download --no-deps --no-binary=horovod --no-build-isolation -d "$work" "horovod==$release"
  echo "$sha256  $work/horovod-$release.tar.gz" | sha256sum -c --quiet
  tar xzf "$work/horovod-$release.tar.gz" -C "$work"
  source=$work/horovod-$release
  sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 17)/' "$source"/CMakeLists.txt "$source"/horovod/torch/CMakeLists.txt
  sed -i "s/'RelWithDebInfo'/'Release'/" "$source/setup.py"  # a wheel of 1 MB instead of 19
  export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1 HOROVOD_CPU_OPERATIONS=GLOO HOROVOD_WITHOUT_MPI=1 \
    HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 MAKEFLAGS="-j$(nproc)"
  pip wheel --no-deps --no-build-isolation -w "$work/built" "$source" >"$work/log" 2>&1 || { tail -n 40 "$work/log"; exit 1; }
  mkdir -p "$wheels"
  mv "$work"/built/horovod-*.whl "$wheels"
  unset PYTHONPATH
fi
"$python" -m pip install --quiet --disable-pip-version-check -c "$constraints" "$wheels"/horovod-*.whl  # and what it needs
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheels"/horovod-*.whl
(cd / && "$python" -c 'import horovod.torch as hvd; hvd.init(); assert hvd.size() == 1')
echo "horovod: $release is installed for $torch"
