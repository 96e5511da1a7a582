#!/usr/bin/env bash
# A real S3 server for tests: one Ceph monitor, one object store and the gateway, all on loopback.
#
#   radosgw.sh start DIR PORT     starts a new one, or the one that DIR already holds; its data is kept
#   radosgw.sh crash DIR          SIGKILL to all of it
#   radosgw.sh remove DIR         crash, and delete DIR
#
# Users and keys: `test`, with testkey and testsecret. Debian: apt-get install radosgw ceph-mon ceph-osd ceph-common
set -euo pipefail
command=${1:?start, crash or remove}
dir=$(realpath -m "${2:?a directory}")
export CEPH_CONF=$dir/ceph.conf

crash() {
  for name in radosgw ceph-osd ceph-mon; do
    [ -f "$dir/$name.pid" ] || continue
    pid=$(cat "$dir/$name.pid")
    if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q "^$name "; then
      kill -KILL "$pid"
      while kill -0 "$pid" 2>/dev/null && ! grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null; do sleep 0.1; done
    fi
    rm -f "$dir/$name.pid"
  done
}

configure() {
  mkdir -p "$dir"/{mon,osd,run,log}
  cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = [v2:127.0.0.1:$((port + 10000)),v1:127.0.0.1:$((port + 10001))]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
# cephx, because monitors without authentication never let a gateway in
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = $dir/keyring
run_dir = $dir/run
log_file = $dir/log/\$name.log
pid_file = $dir/run/\$name.pid
admin_socket = $dir/run/\$name.asok
setuser_match_path =
# a single object store is all there is
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 2
mon_data_avail_crit = 1
[mon]
mon_data = $dir/mon
[osd]
osd_data = $dir/osd
osd_objectstore = bluestore
bluestore_block_create = true
bluestore_block_size = 4294967296
bluestore_fsck_on_mount = false
osd_memory_target = 939524096
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:$port
rgw_run_sync_thread = false
rgw_thread_pool_size = 32
CONF
  ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
  for name in client.admin client.rgw osd.0; do
    ceph-authtool "$dir/keyring" --gen-key -n $name --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
  done
  fsid=$(sed -n 's/^fsid = //p' "$dir/ceph.conf")
  monmaptool --create --clobber --fsid "$fsid" \
    --addv a "[v2:127.0.0.1:$((port + 10000)),v1:127.0.0.1:$((port + 10001))]" "$dir/monmap" >/dev/null
  ceph-mon -i a --mkfs --monmap "$dir/monmap" --keyring "$dir/keyring" >"$dir/log/mkfs-mon.log" 2>&1
}

background() { # name, command...
  local name=$1
  shift
  setsid "$name" "$@" -f >"$dir/log/$name.out" 2>&1 &
  echo $! >"$dir/$name.pid"
}

waited_for() { # seconds, command...
  local tries=$(($1 * 5))
  shift
  for _ in $(seq "$tries"); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.2
  done
  echo "radosgw.sh: $* did not come up; see $dir/log" >&2
  return 1
}

port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port"); }

case $command in
  crash) crash ;;
  remove)
    crash
    rm -rf "$dir"
    ;;
  start)
    port=${3:?a port}
    new=no
    if [ ! -f "$dir/user.json" ]; then
      crash
      rm -rf "$dir"
      new=yes
      mkdir -p "$dir"
      configure
    fi
    cd "$dir"
    background ceph-mon -i a
    waited_for 30 timeout 5 ceph mon stat
    if [ $new = yes ]; then
      id=$(cat /proc/sys/kernel/random/uuid)
      ceph osd new "$id" 0 >/dev/null 2>&1
      ceph-osd -i 0 --mkfs --osd-uuid "$id" >"$dir/log/mkfs-osd.log" 2>&1
    fi
    background ceph-osd -i 0
    background radosgw -n client.rgw
    waited_for 90 port_answers
    if [ $new = yes ]; then
      radosgw-admin user create --uid=test --display-name=test --access-key=testkey --secret-key=testsecret >"$dir/user.json.part"
      mv "$dir/user.json.part" "$dir/user.json"
    fi
    ;;
  *)
    echo "radosgw.sh: what is $command?" >&2
    exit 2
    ;;
esac
