"""Runs on a cluster whose Ray does what a test says: every way that they go, and go wrong."""

import json
import threading
import time

import pytest
from helpers import TINY

from cluster.attempts import attempt_record, claim_attempt, driver_log
from cluster.errors import InputError, StepError
from cluster.kube import runs as kuberay
from cluster.kube.api import Conflict, Lost, NotThere
from cluster.kube.rayjob import SUBMISSION, job_name
from cluster.kube.state import state_of
from cluster.run import Run
from cluster.store import open_store
from jobs import files
from jobs.config import load
from jobs.operate import kube as cluster
from jobs.operate.outcome import within
from jobs.operate.submit import check_size, elastic_notes, plan, rendered

# a watch that the end of a test cuts off in its TLS handshake
pytestmark = pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
STORE = "s3://bucket/prefix"


def made(*settings):
    return rendered(load(str(TINY), list(settings)), STORE, {})


@pytest.fixture
def run(api, operator):
    """A run that was submitted."""
    there = made()
    assert kuberay.submit(api, there) == "created"
    return there.name


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def until(api, run, *names, timeout_s=30):
    """The states on the way to one of these."""
    seen = []
    last = cluster.follow(api, run, seen.append, timeout_s=timeout_s, until=names)
    assert last.state.name in names, [str(s.state) for s in seen]
    return seen


def in_store(api, server, run, url):
    """The run's results are in another store from now on."""
    run_id = load(str(TINY)).id
    server.merge("rayjobs", "ofa", run, {"metadata": {"annotations": {"ofa-cluster.io/results": f"{url}/{run_id}"}}})
    return run_id


class TestSubmitting:
    def test_a_run_is_one_rayjob_that_owns_its_settings(self, api, server, run):
        job, config = api.get("RayJob", run), api.get("ConfigMap", f"{run}-config")
        assert config["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
        assert load_toml(config["data"]["run.toml"], "name") == "tiny"
        server.delete("rayjobs", "ofa", run)
        wait_for(lambda: api.find("RayJob", run) is None and api.find("ConfigMap", f"{run}-config") is None)

    def test_the_server_is_asked_before_anything_is_created(self, api, server, operator):
        kuberay.submit(api, made())
        posts = [path for method, path in server.requests if method == "POST"]
        assert ["dryRun=All" in path for path in posts] == [True, True, False, False]
        assert all("fieldValidation=Strict" in path for path in posts)

    def test_asking_twice_changes_nothing(self, api, run):
        before = api.get("RayJob", run)["metadata"]["uid"]
        assert kuberay.submit(api, made()) == "unchanged"
        assert api.get("RayJob", run)["metadata"]["uid"] == before

    def test_asking_for_something_else_under_the_same_name_is_refused(self, api, run):
        with pytest.raises(Conflict, match=rf"{run} is there already, with other settings.*`ofa cancel {run} --now`"):
            kuberay.submit(api, made("kube.search.max=9"))

    def test_a_submit_that_was_killed_in_the_middle_is_completed_by_the_next(self, api, server, operator):
        there = made()
        operator.frozen = True
        api.create(there.job)  # and then nothing
        assert kuberay.submit(api, there) == "unchanged"
        assert api.find("ConfigMap", f"{there.name}-config") is not None

    def test_one_that_is_being_deleted_is_waited_for(self, api, server, operator, run):
        operator.frozen = True
        time.sleep(0.2)
        kuberay.cancel(api, api.get("RayJob", run), now=True)
        with pytest.raises(Conflict, match="being deleted; submit again in a moment"):
            kuberay.submit(api, made())
        operator.frozen = False
        wait_for(lambda: api.find("RayJob", run) is None)
        assert kuberay.submit(api, made()) == "created"

    def test_nothing_is_created_where_the_dry_run_is_refused(self, api, server):
        server.forbidden.add(("create", "rayjobs"))
        with pytest.raises(InputError, match="not allowed"):
            kuberay.submit(api, made())
        assert api.list("RayJob") == [] == api.list("ConfigMap")

    def test_the_plan_has_an_upper_bound_of_hours_where_a_run_has_a_deadline(self):
        """Up to four pods of 3 CPUs, eight of 2 CPUs and a GPU; head, autoscaler and submitter have 3 CPUs."""
        sets = ["kube.search.max=8", "kube.search.gpus=1", "kube.train.cpus=3"]
        endless = plan(load(str(TINY), sets).kube, "image", None)
        assert endless.to_json()["most_hours"] == {"cpus": None, "gpus": None}
        bounded = plan(load(str(TINY), [*sets, "kube.deadline_s=7200", "kube.ttl_s=1800"]).kube, "image", None)
        assert bounded.to_json()["most_hours"] == {"cpus": (3 + 12 + 16) * 2.5, "gpus": 8 * 2.5}

    def test_a_run_that_deletes_its_job_is_not_paused_and_a_cancel_deletes_it(self, api, operator):
        run = made("kube.delete_job_s=60")
        kuberay.submit(api, run)
        until(api, run.name, "Running")
        with pytest.raises(InputError, match=r"KubeRay pauses no run with kube\.delete_job_s; `ofa cancel` it"):
            cluster.pause(api, run.name)
        assert "deleted, its results stay (its cluster goes with it" in cluster.cancel(api, run.name)
        wait_for(lambda: api.find("RayJob", run.name) is None)

    def test_the_plan_counts_the_collector_of_the_history_server(self):
        usual, more = (plan(load(str(TINY), sets).kube, "i", None) for sets in ([], ["kube.history=c:1"]))
        pods = usual.total("pods", most=True) - 1  # all but the submitter
        assert more.total("cpus", most=True) == pytest.approx(usual.total("cpus", most=True) + 0.1 * pods)
        assert more.total("memory_gib", most=True) == pytest.approx(usual.total("memory_gib", most=True) + 0.25 * pods)

    def test_the_fewest_workers_need_places_and_missing_ones_for_the_most_are_a_note(self):
        """The groups have 10 CPUs at most."""
        assert elastic_notes(load(str(TINY), ["train.workers=[1, 10]"])) == []
        assert elastic_notes(load(str(TINY), ["train.workers=10"])) == []
        elastic = load(str(TINY), ["train.workers=[1, 64]"])
        check_size(elastic)
        assert elastic_notes(elastic) == ["train.workers may be 64, the groups have 10 CPUs at most"]
        with pytest.raises(InputError, match="10 CPUs at most, this run needs 11"):
            check_size(load(str(TINY), ["train.workers=[11, 64]"]))

    def test_the_plan_counts_what_kuberay_adds_and_reads_the_quota(self, api, server):
        kube = load(str(TINY), ["kube.search.max=8"]).kube
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "ofa"},
                 "spec": {"hard": {"requests.cpu": "10", "pods": "200", "requests.memory": "1Ti"}},
                 "status": {"used": {"requests.cpu": "500m"}}}  # fmt: skip
        server.create(quota)
        found = plan(kube, "image@sha256:" + "0" * 64, api)
        # head 2 + autoscaler 0.5 + submitter 0.5 + one worker of 2; and eight of 2
        assert (found.total("cpus", most=False), found.total("cpus", most=True)) == (5, 21)
        assert (found.total("pods", most=False), found.total("pods", most=True)) == (3, 11)
        assert found.notes == ("quota requests.cpu: 0 of 10 in use, not all groups can reach max (21)",)
        server.update(
            {**server.get("resourcequotas", "ofa", "q"), "status": {"used": {"requests.cpu": "6500m"}}}, sub="status"
        )
        [note] = plan(kube, "image@sha256:" + "0" * 64, api).notes
        assert note == "quota requests.cpu: 6.5 of 10 in use, 5 needed to start: it will wait"
        server.merge("resourcequotas", "ofa", "q", {"spec": {"hard": {"requests.cpu": "4"}}})
        with pytest.raises(InputError, match=r"quota q: requests.cpu is 4, this run needs 5 to start"):
            plan(kube, "image", api)

    @pytest.mark.parametrize(
        ("run_id", "name"),
        [
            ("digits-1a2b3c4d", "digits-1a2b3c4d"),
            ("my.run-1a2b3c4d", "my-run-1a2b3c4d"),
            ("2026-1a2b3c4d", "run-2026-1a2b3c4d"),
            ("a" * 60 + "-1a2b3c4d", "a" * 38 + "-1a2b3c4d"),
        ],
    )
    def test_a_rayjob_is_named_by_its_run(self, run_id, name):
        assert job_name(run_id) == name == job_name(name)


def load_toml(text, key):
    import tomllib

    return tomllib.loads(text)[key]


class TestFollowing:
    def test_a_run_goes_from_pending_to_succeeded(self, api, operator, run):
        seen = until(api, run, "Running")
        assert {str(s.state) for s in seen} <= {"Pending", "Starting", "Running"}
        operator.backend.say = "SUCCEEDED"
        assert [str(s.state) for s in until(api, run, "Succeeded")][-1] == "Succeeded"

    @pytest.mark.parametrize(
        ("fault", "says"),
        [("pull_fails", 'ImagePullBackOff: Back-off pulling image "ofa-cluster:'), ("no_nodes", "Unschedulable: 0/3 nodes")],
    )
    def test_pods_that_cannot_start_are_said_while_kuberay_says_nothing(self, api, operator, fault, says):
        setattr(operator, fault, True)
        there = made()
        kuberay.submit(api, there)
        wait_for(lambda: api.get("RayJob", there.name).get("status", {}).get("rayClusterName"))
        seen = []
        for moment in kuberay.follow(api, there.name, look_s=0.1, timeout_s=20):
            seen.append(moment)
            if moment.troubles:
                break
        assert seen[-1].state.name == "Pending"
        assert any(says in trouble for trouble in seen[-1].troubles), seen[-1].troubles
        assert cluster.status(api, there.name)["troubles"]
        wait_for(lambda: cluster.events(api, there.name))
        setattr(operator, fault, False)
        until(api, there.name, "Running")

    def test_heads_that_exit_at_once_are_one_line_with_their_last_words(self, api, operator):
        operator.backend.crash = 3
        there = made()
        kuberay.submit(api, there)
        wait_for(lambda: len(operator.backend.started) > 3)
        seen = list(kuberay.follow(api, there.name, look_s=0.1, timeout_s=3))
        [line] = [str(trouble) for trouble in seen[-1].troubles]
        assert line.startswith("head pods have ended and were created again")
        assert line.endswith("the last time with exit code 3 (Error): the head's last line")
        assert len(seen) <= 4, seen  # a count that grows is no news

    def test_an_autoscaler_that_has_ended_is_shown_while_the_run_runs(self, api, operator):
        operator.autoscaler_exits = 2
        there = made()
        kuberay.submit(api, there)
        until(api, there.name, "Running")
        [line] = cluster.status(api, there.name)["troubles"]
        assert "container autoscaler ended with exit code 2 (Error)" in line
        assert line.endswith(": ValueError: the autoscaler's end")

    def test_a_head_that_was_lost_is_shown_and_a_completed_submitter_is_not(self, api, operator, run):
        until(api, run, "Running")
        operator.backend.lose(api.get("RayJob", run)["status"]["rayClusterName"])
        wait_for(lambda: len(operator.backend.submitted) == 2)
        shown = cluster.status(api, run)["troubles"]
        assert any(line.startswith("a head pod has ended and was created again at") for line in shown), shown
        assert any("ray-job-submitter ended with exit code 1" in line and "1006" in line for line in shown), shown
        operator.backend.say = "SUCCEEDED"
        until(api, run, "Succeeded")
        assert cluster.status(api, run)["troubles"] == []

    def test_what_the_operator_refuses_is_invalid_at_once(self, api, operator):
        operator.invalid = "the RayJob spec is invalid"
        there = made()
        kuberay.submit(api, there)
        last = until(api, there.name, "Invalid")[-1]
        assert last.state.message == "the RayJob spec is invalid"
        assert last.state.exit_code == 4

    def test_lost_watches_and_410_are_not_noticed(self, api, server, operator, run):
        until(api, run, "Running")
        seen = []
        thread = threading.Thread(target=lambda: seen.append(cluster.follow(api, run, lambda s: None, timeout_s=30)))
        thread.start()
        for _ in range(3):
            server.drop_watches()
            time.sleep(0.1)
            server.compact()
        operator.backend.say = "SUCCEEDED"
        thread.join(timeout=30)
        assert seen[0].state.name == "Succeeded"

    def test_contradictory_words_do_not_fool_anybody(self, api, server, operator, run):
        until(api, run, "Running")
        operator.frozen = True
        time.sleep(0.1)
        words = {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "JobStatusCheckTimeoutExceeded"}
        server.merge("rayjobs", "ofa", run, {"status": words}, sub="status")
        last = until(api, run, "Failed")[-1]
        assert (last.state.reason, last.state.exit_code) == ("JobStatusCheckTimeoutExceeded", 1)

    def test_a_run_that_is_deleted_meanwhile_is_gone(self, api, operator, run):
        until(api, run, "Running")
        seen = []
        thread = threading.Thread(target=lambda: seen.append(cluster.follow(api, run, lambda s: None, timeout_s=30)))
        thread.start()
        time.sleep(0.2)
        assert "deleted" in kuberay.cancel(api, api.get("RayJob", run), now=True)
        thread.join(timeout=30)
        assert seen[0].state.name in ("Gone", "Stopped")
        assert seen[0].state.exit_code == 3

    def test_time_is_up_before_the_end(self, api, operator, run):
        until(api, run, "Running")
        last = cluster.follow(api, run, lambda s: None, timeout_s=0.5)
        assert last.state.name == "Running"

    def test_an_unknown_run_is_one_line_that_names_those_there(self, api, run):
        with pytest.raises(NotThere, match=f"no run 'nosuch'; there are: {run}"):
            kuberay.find(api, "nosuch")

    def test_list_has_a_row_for_each(self, api, operator, run):
        until(api, run, "Running")
        [row] = cluster.listing(api)
        assert (row["run"], row["state"], row["submission"]) == (run, "Running", 1)
        assert row["results"].startswith(STORE)


def limits(spec):
    """Pods to start with, least and most of each group."""
    return {g["groupName"]: (g["replicas"], g["minReplicas"], g["maxReplicas"]) for g in spec["workerGroupSpecs"]}


class TestChanging:
    def test_scaling_changes_the_cluster_and_the_groups_of_the_job(self, api, server, operator, run, tmp_path):
        until(api, run, "Running")
        run_id = in_store(api, server, run, str(tmp_path))
        server.conflicts = 3  # the autoscaler writes to it, too
        first, uid = api.get("RayJob", run)["status"]["rayClusterName"], api.get("RayJob", run)["metadata"]["uid"]
        found = cluster.scale(api, run, group="search", least=2, most=5)
        assert (found["before"], found["after"]) == ((0, 4), (2, 5))
        assert found["evaluators"] == 12  # five pods of two CPUs, and one of the train group
        spec = api.get("RayCluster", api.get("RayJob", run)["status"]["rayClusterName"])["spec"]
        [group] = [g for g in spec["workerGroupSpecs"] if g["groupName"] == "search"]
        assert (group["minReplicas"], group["maxReplicas"]) == (2, 5)
        job = api.get("RayJob", run)
        assert limits(job["spec"]["rayClusterSpec"]) == {"train": (1, 1, 1), "search": (2, 2, 5)}
        assert (job["metadata"]["uid"], job["status"]["rayClusterName"]) == (uid, first)  # the cluster lives on
        assert kuberay.submit(api, made()) == "unchanged"
        wait_for(lambda: len(api.list("Pod", labels="ray.io/group=search")) == 2)
        assert json.loads(open_store(str(tmp_path)).read(f"{run_id}/partial/scale.json")) == {"evaluators": 12}
        found = cluster.scale(api, run, evaluations=500)
        assert (found["evaluators"], found["evaluations"]) == (12, 500)

    def test_what_was_scaled_lasts_over_a_pause_a_retry_of_the_operator_and_one_of_a_user(
        self, api, server, operator, tmp_path
    ):
        there = made("kube.attempts=2")
        kuberay.submit(api, there)
        run = there.name
        until(api, run, "Running")
        run_id = in_store(api, server, run, str(tmp_path))
        cluster.scale(api, run, group="search", least=2, most=5)

        def sizes():
            until(api, run, "Running")
            spec = api.get("RayCluster", api.get("RayJob", run)["status"]["rayClusterName"])["spec"]
            asked = json.loads(open_store(str(tmp_path)).read(f"{run_id}/partial/scale.json"))["evaluators"]
            return limits(spec)["search"], asked, len(api.list("Pod", labels="ray.io/group=search"))

        wait_for(lambda: sizes() == ((2, 2, 5), 12, 2))
        cluster.pause(api, run)
        wait_for(lambda: str(state_of(api.get("RayJob", run))) == "Paused")
        cluster.resume(api, run)
        wait_for(lambda: sizes() == ((2, 2, 5), 12, 2))
        first = api.get("RayJob", run)["status"]["rayClusterName"]
        operator.backend.statuses[first] = "FAILED"
        wait_for(lambda: api.get("RayJob", run)["status"].get("rayClusterName", first) != first)
        wait_for(lambda: sizes() == ((2, 2, 5), 12, 2))
        operator.backend.say = "STOPPED"
        until(api, run, "Stopped")
        operator.backend.say = "RUNNING"
        cluster.retry(api, run)
        wait_for(lambda: sizes() == ((2, 2, 5), 12, 2))
        assert kuberay.submit(api, made("kube.attempts=2")) == "unchanged"

    def test_a_paused_run_is_scaled_for_its_next_cluster(self, api, server, operator, run, tmp_path):
        until(api, run, "Running")
        in_store(api, server, run, str(tmp_path))
        cluster.pause(api, run)
        wait_for(lambda: str(state_of(api.get("RayJob", run))) == "Paused")
        found = cluster.scale(api, run, group="search", least=3)
        assert (found["before"], found["after"], found["pods"], found["evaluators"]) == ((0, 4), (3, 4), 0, 10)
        cluster.resume(api, run)
        wait_for(lambda: len(api.list("Pod", labels="ray.io/group=search")) == 3)

    def test_a_group_whose_job_was_changed_in_between_is_scaled_all_the_same(self, api, server, operator, run, tmp_path):
        until(api, run, "Running")
        in_store(api, server, run, str(tmp_path))
        job = api.get("RayJob", run)
        server.merge("rayjobs", "ofa", run, {"metadata": {"annotations": {"touched": "1"}}})
        assert kuberay.scale(api, job, "search", 1, None).after == (1, 4)

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            ({"group": "serach", "most": 3}, "no worker group 'serach'; there are train, search"),
            ({"group": "search", "least": 3, "most": 2}, "--min 3 and --max 2: expected 0 <= min <= max"),
            ({"group": "search", "most": 2**31}, "expected 0 <= min <= max <= 2147483647"),
            ({"group": "search"}, "--group goes with --min, --max or both"),
            ({"most": 3}, "--group goes with --min, --max or both"),
            ({}, "give --group with --min or --max, or --evaluations"),
        ],
    )
    def test_what_cannot_be_scaled_is_one_line(self, api, server, operator, run, tmp_path, asked, says):
        until(api, run, "Running")
        in_store(api, server, run, str(tmp_path))
        with pytest.raises(InputError, match=says):
            cluster.scale(api, run, **asked)

    def test_a_queued_run_is_kueues_business(self, api, server, operator):
        there = made("kube.queue=ofa")
        assert there.job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
        kuberay.submit(api, there)
        for change in (kuberay.pause, lambda a, j: kuberay.scale(a, j, "search", 1, 2)):
            with pytest.raises(InputError, match="Kueue"):
                change(api, api.get("RayJob", there.name))

    def test_a_paused_run_gives_its_cluster_back_and_resumes_on_a_new_one(self, api, operator, run):
        until(api, run, "Running")
        first = api.get("RayJob", run)["status"]["rayClusterName"]
        with pytest.raises(InputError, match="is Running, not paused"):
            cluster.resume(api, run)
        cluster.pause(api, run)
        wait_for(lambda: str(state_of(api.get("RayJob", run))) == "Paused")
        assert first in operator.backend.stopped
        assert api.list("RayCluster") == []
        cluster.resume(api, run)
        until(api, run, "Running")
        assert api.get("RayJob", run)["status"]["rayClusterName"] != first

    def test_pods_that_are_left_of_a_paused_run_are_shown(self, api, operator, run):
        operator.grace_s = 5.0
        cluster.pause(api, run)
        wait_for(lambda: str(state_of(api.get("RayJob", run))) == "Paused")
        cluster.resume(api, run)
        until(api, run, "Running")  # its pods are of the kind that needs a while to end
        cluster.pause(api, run)
        wait_for(lambda: str(state_of(api.get("RayJob", run))) == "Paused")
        row = cluster.status(api, run)
        assert {pod["phase"] for pod in row["pods"] if "-head-" in pod["pod"]} == {"Terminating"}
        wait_for(lambda: not [pod for pod in cluster.status(api, run)["pods"] if "-head-" in pod["pod"]])

    def test_the_operator_retries_on_a_new_cluster_and_then_gives_up(self, api, operator):
        there = made("kube.attempts=2")
        kuberay.submit(api, there)
        until(api, there.name, "Running")
        operator.backend.statuses[api.get("RayJob", there.name)["status"]["rayClusterName"]] = "FAILED"
        wait_for(lambda: len(operator.backend.started) == 2)
        until(api, there.name, "Running")
        operator.backend.say = "FAILED"
        last = until(api, there.name, "Failed")[-1]
        assert (last.state.reason, last.state.exit_code) == ("AppFailed", 1)

    def test_an_ended_run_is_started_again_as_a_new_submission(self, api, operator, run):
        with pytest.raises(InputError, match="it has not ended; cancel it first"):
            cluster.retry(api, run)
        operator.backend.say = "STOPPED"
        assert until(api, run, "Stopped")[-1].state.exit_code == 3
        before = api.get("RayJob", run)
        operator.backend.say = "RUNNING"
        assert "number 2" in cluster.retry(api, run)
        after = api.get("RayJob", run)
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["metadata"]["annotations"][SUBMISSION] == "2"
        assert after["spec"] == before["spec"]
        until(api, run, "Running")
        assert kuberay.submit(api, made()) == "unchanged"

    def test_a_retry_goes_on_over_an_outage(self, api, server, operator, run):
        operator.backend.say = "STOPPED"
        until(api, run, "Stopped")
        before, delete = api.get("RayJob", run), server.delete

        def lose(*names, **how):
            found = delete(*names, **how)
            if names[0] == "rayjobs":
                server.delete = delete
                server.unavailable = 3
            return found

        server.delete = lose
        assert "number 2" in cluster.retry(api, run)
        assert api.get("RayJob", run)["metadata"]["uid"] != before["metadata"]["uid"]
        assert api.find("ConfigMap", f"{run}-config") is not None

    def test_a_retry_that_loses_the_server_says_what_is_gone(self, api, server, operator, run, monkeypatch):
        monkeypatch.setattr("cluster.kube.api.REPEATED_S", 0.2)
        operator.backend.say = "STOPPED"
        until(api, run, "Stopped")
        delete = server.delete

        def lose(*names, **how):
            found = delete(*names, **how)
            server.unavailable = 10_000
            return found

        server.delete = lose
        with pytest.raises(Lost, match=f"{run}: its RayJob was deleted, and is not there again: .*`ofa submit` its config"):
            kuberay.retry(api, api.get("RayJob", run), timeout_s=0.5)
        server.delete = delete
        server.unavailable = 0

    def test_cancel_without_rays_token_deletes_and_says_so(self, api, operator, run, monkeypatch, tmp_path):
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
        until(api, run, "Running")
        assert cluster.cancel(api, run) == f"{run}: deleted, its results stay"
        wait_for(lambda: api.find("RayJob", run) is None)
        assert operator.backend.stopped

    def test_cancel_whose_dashboard_does_not_answer_deletes_and_says_why(self, api, operator, run, monkeypatch):
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a-ray-token")
        until(api, run, "Running")
        words = cluster.cancel(api, run)
        assert f"{run}: deleted" in words
        assert "no endpoints available" in words
        assert "a-ray-token" not in words


class TestLogs:
    def test_logs_are_followed_to_the_end_over_lost_connections(self, api, server, operator, run):
        until(api, run, "Running")
        cluster_name = api.get("RayJob", run)["status"]["rayClusterName"]
        lines, seen = operator.backend.lines[cluster_name], []
        follower = threading.Thread(
            target=lambda: seen.extend(cluster.logs(api, run, "submitter", follow=True, tail=0, store=None))
        )
        wait_for(lambda: any(server.logs.values()))
        follower.start()
        for n in range(20):
            lines.append(f"line {n}")
            time.sleep(0.02)
            if n in (5, 12):
                server.drop_watches()
        operator.backend.say = "SUCCEEDED"
        follower.join(timeout=30)
        assert seen[1:] == [f"line {n}" for n in range(20)]  # none twice, none left out
        assert seen[0].startswith("running ofa run ")
        assert list(cluster.logs(api, run, "submitter", follow=False, tail=2, store=None)) == ["line 18", "line 19"]

    def test_each_role_has_its_own(self, api, server, operator, run):
        until(api, run, "Running")
        for kind in ("head", "worker"):
            [pod] = api.list("Pod", labels=f"ray.io/node-type={kind}")
            server.log("ofa", pod["metadata"]["name"], f"I am the {kind}")
            assert list(cluster.logs(api, run, kind, follow=False, tail=0, store=None)) == [f"I am the {kind}"]

    def test_once_the_cluster_is_gone_the_store_has_the_drivers_words(self, api, server, operator, run, tmp_path):
        until(api, run, "Running")
        url = str(tmp_path / "store")
        run_id = in_store(api, server, run, url)
        store = open_store(url)
        Run.open(url, run_id, "", "test")
        for number in (1, 2):
            claim_attempt(store, run_id)
            store.write(f"{run_id}/{driver_log(number)}", f"attempt {number}\nits end\n".encode())
        kuberay.cancel(api, api.get("RayJob", run), now=True)
        wait_for(lambda: api.find("RayJob", run) is None)
        with pytest.raises(NotThere):
            list(cluster.logs(api, run, "submitter", follow=False, tail=0, store=None))
        assert list(cluster.logs(api, run_id, "submitter", follow=False, tail=0, store=url)) == ["attempt 2", "its end"]
        with pytest.raises(InputError, match="its worker pods are gone"):
            list(cluster.logs(api, run_id, "worker", follow=False, tail=0, store=url))
        assert cluster.status(api, run_id, url)["state"] == "Gone"
        record = {"attempt": 2, "began": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:00:00+00:00", "exit": 130}
        store.write(f"{run_id}/{attempt_record(2)}", json.dumps(record).encode())
        assert cluster.status(api, run_id, url)["state"] == "Stopped"

    def test_no_pod_yet_is_one_line(self, api, operator):
        operator.no_nodes = True
        there = made()
        kuberay.submit(api, there)
        with pytest.raises(InputError, match="no submitter pod has said anything yet"):
            list(cluster.logs(api, there.name, "submitter", follow=False, tail=0, store=None))


class Followed:
    """A command's function in a thread: what it yields or returns, and how it ends."""

    def __init__(self, work):
        self.lines, self.notes, self.outages, self.result, self.error = [], [], [], None, None
        self.thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        self.thread.start()

    def _work(self, work):
        try:
            self.result = work(self)
        except Exception as error:
            self.error = error

    def end(self, timeout_s=40):
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), (self.lines, self.notes)
        if self.error is not None:
            raise self.error
        return self


def following(api, run, role="submitter", store=None, tail=0):
    def work(seen):
        how = {"note": seen.notes.append, "outage": seen.outages.append}
        for line in cluster.logs(api, run, role, follow=True, tail=tail, store=store, **how):
            seen.lines.append(line)

    return Followed(work)


def watching(api, run, timeout_s=None):
    def work(seen):
        how = {"note": seen.notes.append, "outage": seen.outages.append, "timeout_s": timeout_s}
        return cluster.follow(api, run, lambda moment: seen.lines.append(str(moment.state)), **how)

    return Followed(work)


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr("cluster.kube.outages.REPORTED_S", 0.1)
    monkeypatch.setattr("cluster.kube.outages.LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr("cluster.kube.logs.Following.look_s", 0.1)
    monkeypatch.setattr("cluster.kube.logs.QUIET_S", 2.0)


@pytest.mark.usefixtures("_quick")
class TestOutages:
    @pytest.mark.parametrize("starting", [0, 6])
    def test_a_run_is_followed_over_a_server_that_is_restarted(self, api, server, operator, run, starting):
        until(api, run, "Running")
        seen = watching(api, run)
        wait_for(lambda: seen.lines)
        server.go_away()
        wait_for(lambda: seen.outages)
        operator.backend.say = "SUCCEEDED"
        server.come_back(starting)
        assert seen.end().result.state.name == "Succeeded"
        assert [outage.lost for outage in seen.outages] == [True, False]

    def test_a_command_that_begins_in_an_outage_waits_for_its_end(self, api, server, operator, run):
        until(api, run, "Running")
        server.go_away()
        seen = watching(api, run, timeout_s=60)
        wait_for(lambda: seen.outages)
        operator.backend.say = "SUCCEEDED"
        server.come_back(starting=5)
        assert seen.end().result.state.name == "Succeeded"

    @pytest.mark.parametrize("known", [True, False])
    def test_a_timeout_in_an_outage_is_a_lost_server_and_in_time(self, api, server, operator, run, known):
        until(api, run, "Running")
        if not known:
            server.go_away()
        begun, seen = time.monotonic(), watching(api, run, timeout_s=3)
        if known:
            wait_for(lambda: seen.lines)
            server.go_away()
        with pytest.raises(Lost, match="the run may be healthy"):
            seen.end()
        assert time.monotonic() - begun < 25

    @pytest.mark.parametrize("timeout_s", [0, -1, 1e-9])
    def test_a_timeout_of_nothing_is_one_look(self, api, operator, run, timeout_s):
        until(api, run, "Running")
        assert watching(api, run, timeout_s=timeout_s).end().lines == ["Running"]

    def test_without_a_timeout_it_gives_up_some_time(self, api, server, operator, run, monkeypatch):
        monkeypatch.setattr(cluster, "GIVE_UP_S", 1.0)
        until(api, run, "Running")
        server.go_away()
        with pytest.raises(Lost, match="the run may be healthy"):
            watching(api, run).end()

    def test_a_user_without_rights_is_told_at_once(self, api, server, operator, run):
        server.forbidden |= {("get", "rayjobs"), ("list", "rayjobs"), ("watch", "rayjobs")}
        begun = time.monotonic()
        with pytest.raises(InputError, match="not allowed"):
            watching(api, run).end()
        assert time.monotonic() - begun < 25

    def test_a_user_who_may_not_look_at_pods_and_events_follows_the_run(self, api, server, operator, run):
        server.forbidden |= {("list", "pods"), ("list", "events")}
        seen = watching(api, run)
        wait_for(lambda: "Running" in seen.lines)
        operator.backend.say = "SUCCEEDED"
        assert seen.end().result.state.name == "Succeeded"

    def test_logs_are_followed_over_a_server_that_is_restarted(self, api, server, operator, run):
        until(api, run, "Running")
        lines = operator.backend.lines[api.get("RayJob", run)["status"]["rayClusterName"]]
        lines.append("before")
        seen = following(api, run)
        wait_for(lambda: "before" in seen.lines)
        server.go_away()
        wait_for(lambda: seen.outages)
        lines.append("meanwhile")
        time.sleep(0.5)
        server.come_back(starting=5)
        lines.append("after")
        wait_for(lambda: "after" in seen.lines)
        operator.backend.say = "SUCCEEDED"
        assert seen.end().lines[1:] == ["before", "meanwhile", "after"]
        assert [outage.lost for outage in seen.outages] == [True, False]


class TestTroublesInAWatch:
    def test_a_count_that_grows_is_one_line_also_where_the_rayjob_changes_all_the_time(self, api, server, operator):
        operator.backend.crash = 3
        there = made()
        kuberay.submit(api, there)
        done = threading.Event()

        def touch():
            for number in range(1000):
                if done.wait(0.05):
                    return
                server.merge("rayjobs", "ofa", there.name, {"metadata": {"annotations": {"touched": str(number)}}})

        thread = threading.Thread(target=touch)
        thread.start()
        seen = [moment.troubles for moment in kuberay.follow(api, there.name, look_s=0.1, timeout_s=4)]
        done.set()
        thread.join()
        with_troubles = [line for troubles in seen for line in troubles if "created again" in line]
        assert len(with_troubles) in (1, 2), seen  # and one for each other line that comes beside it


@pytest.mark.usefixtures("_quick")
class TestFollowingLogs:
    """The log is that of the run: of all its pods, one after another, until the run has ended."""

    def write(self, api, operator, run, *texts):
        name = api.get("RayJob", run)["status"]["rayClusterName"]
        operator.backend.lines[name].extend(texts)
        return name

    def test_over_a_lost_head_and_its_second_submitter(self, api, operator, run):
        until(api, run, "Running")
        seen = following(api, run)
        name = self.write(api, operator, run, "one", "two")
        wait_for(lambda: "two" in seen.lines)
        operator.backend.lose(name)
        wait_for(lambda: len(operator.backend.submitted) == 2)
        self.write(api, operator, run, "one again", "three")
        wait_for(lambda: "three" in seen.lines)
        operator.backend.say = "SUCCEEDED"
        entry = seen.lines[0]
        lines = [line for line in seen.end().lines if "WebSocket" not in line]
        assert lines == [entry, "one", "two", entry, "one again", "three"]

    def test_over_a_submitter_that_is_lost_alone(self, api, server, operator, run):
        until(api, run, "Running")
        seen = following(api, run)
        self.write(api, operator, run, "one", "two")
        wait_for(lambda: "two" in seen.lines)
        [pod] = api.list("Pod", labels=f"job-name={run}")
        server.update({**pod, "status": {**pod["status"], "phase": "Failed"}}, sub="status")
        wait_for(lambda: len(api.list("Pod", labels=f"job-name={run}")) == 2)
        self.write(api, operator, run, "three")
        wait_for(lambda: "three" in seen.lines)
        operator.backend.say = "SUCCEEDED"
        assert seen.end().lines[1:] == ["one", "two", "three"]  # the second repeats the whole log

    def test_over_retries_and_pauses(self, api, operator):
        there = made("kube.attempts=2")
        kuberay.submit(api, there)
        run = there.name
        seen = following(api, run)  # before there is any pod
        until(api, run, "Running")
        name = self.write(api, operator, run, "first")
        wait_for(lambda: "first" in seen.lines)
        operator.backend.statuses[name] = "FAILED"
        wait_for(lambda: len(operator.backend.submitted) == 2)
        until(api, run, "Running")
        self.write(api, operator, run, "second")
        wait_for(lambda: "second" in seen.lines)
        cluster.pause(api, run)
        wait_for(lambda: str(state_of(api.get("RayJob", run))) == "Paused")
        cluster.resume(api, run)
        wait_for(lambda: len(operator.backend.submitted) == 3)
        until(api, run, "Running")
        self.write(api, operator, run, "third")
        wait_for(lambda: "third" in seen.lines)
        operator.backend.say = "SUCCEEDED"
        lines = [line for line in seen.end().lines if not line.startswith("running ")]
        assert lines == ["first", "second", "third"]
        assert any(f"{run} is Pending" in note or f"{run} is Starting" in note for note in seen.notes)

    def test_a_recreated_heads_log_follows_the_first_ones(self, api, server, operator, run):
        until(api, run, "Running")
        [head] = api.list("Pod", labels="ray.io/node-type=head")
        server.log("ofa", head["metadata"]["name"], "the first head")
        seen = following(api, run, "head")
        wait_for(lambda: "the first head" in seen.lines)
        operator.backend.lose(api.get("RayJob", run)["status"]["rayClusterName"])
        wait_for(lambda: len(operator.backend.submitted) == 2)
        [head] = [pod for pod in api.list("Pod", labels="ray.io/node-type=head") if pod["status"]["phase"] == "Running"]
        server.log("ofa", head["metadata"]["name"], "the second head")
        wait_for(lambda: "the second head" in seen.lines)
        operator.backend.say = "SUCCEEDED"
        assert [line for line in seen.end().lines if "head" in line and "last line" not in line] == [
            "the first head",
            "the second head",
        ]

    def test_what_the_deleted_pod_did_not_show_comes_from_the_store(self, api, server, operator, run, tmp_path):
        until(api, run, "Running")
        url = str(tmp_path / "store")
        run_id = in_store(api, server, run, url)
        Run.open(url, run_id, "", "test")
        claim_attempt(open_store(url), run_id)
        self.write(api, operator, run, "one", "two")
        seen = following(api, run)
        wait_for(lambda: "two" in seen.lines)
        log = "\n".join([*seen.lines, "three", "its end", ""])
        open_store(url).write(f"{run_id}/{driver_log(1)}", log.encode())
        kuberay.cancel(api, api.get("RayJob", run), now=True)
        assert seen.end().lines[1:] == ["one", "two", "three", "its end"]

    def test_a_store_that_cannot_be_read_is_a_note(self, api, operator, run, monkeypatch):
        until(api, run, "Running")
        seen = following(api, run)
        wait_for(lambda: seen.lines)
        kuberay.cancel(api, api.get("RayJob", run), now=True)
        assert len(seen.end().lines) == 1
        assert "its store cannot be read from here" in seen.notes[-1]

    def test_the_log_of_an_unknown_run_is_one_line(self, api, run):
        with pytest.raises(NotThere, match=f"no run 'nosuch'; there are: {run}"):
            following(api, "nosuch").end()


class TestTheStoreIsBelieved:
    """KubeRay calls a run failed that has finished in its store."""

    @pytest.fixture
    def failed(self, api, server, operator, run, tmp_path):
        until(api, run, "Running")
        run_id = in_store(api, server, run, str(tmp_path))
        there = Run.open(str(tmp_path), run_id, "", "test")
        claim_attempt(there.store, run_id)
        operator.backend.say = "FAILED"
        operator.frozen = True
        time.sleep(0.2)
        words = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}
        server.merge("rayjobs", "ofa", run, {"status": words}, sub="status")
        return there

    def finish(self, run):
        for step in files.STEPS:
            run.begin(step).finish(seed=1)

    def end(self, run, code):
        time = "2026-01-01T00:00:00+00:00"
        record = {"attempt": 1, "began": time, "ended": time, "exit": code}
        run.store.write(f"{run.id}/{attempt_record(1)}", json.dumps(record).encode())

    @pytest.mark.parametrize("how", ["steps", "record"])
    def test_a_run_that_has_finished_there_has_succeeded(self, api, failed, how):
        self.finish(failed) if how == "steps" else self.end(failed, 0)
        name = api.list("RayJob")[0]["metadata"]["name"]
        row = cluster.status(api, name)
        assert (row["state"], row["reason"]) == ("Succeeded", "")
        assert row["message"] == "the run has finished in its store; KubeRay reports Failed (AppFailed)"
        seen = watching(api, name).end()
        assert (seen.lines, seen.result.state.exit_code) == (["Succeeded"], 0)

    @pytest.mark.parametrize("deployed", ["Failed", "Retrying"])
    def test_a_run_whose_driver_has_ended_at_the_deadline_has_failed_with_it(self, api, server, failed, deployed):
        record = {"attempt": 1, "exit": 1, "reason": "DeadlineExceeded", "message": "kube.deadline_s has passed"}
        failed.store.write(f"{failed.id}/{attempt_record(1)}", json.dumps(record).encode())
        name = api.list("RayJob")[0]["metadata"]["name"]
        words = {"jobDeploymentStatus": deployed, "jobStatus": "FAILED", "failed": 1}
        server.merge("rayjobs", "ofa", name, {"status": words}, sub="status")
        row = cluster.status(api, name)
        assert [row[key] for key in ("state", "reason", "message")] == ["Failed", *list(record.values())[2:]]
        seen = watching(api, name).end()  # also where KubeRay goes on, with drivers that end at once
        assert (seen.lines[-1], seen.result.state.exit_code) == ("Failed (DeadlineExceeded)", 1)

    def test_a_run_that_is_deleted_after_its_end_there_has_succeeded(self, api, server, failed):
        name = api.list("RayJob")[0]["metadata"]["name"]
        words = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "reason": None}
        server.merge("rayjobs", "ofa", name, {"status": words}, sub="status")
        seen = watching(api, name)
        wait_for(lambda: seen.lines)
        self.finish(failed)
        kuberay.cancel(api, api.get("RayJob", name), now=True)
        assert seen.end().result.state.exit_code == 0

    def test_a_retry_that_has_begun_does_not_change_that(self, api, server, failed):
        self.finish(failed)
        name = api.list("RayJob")[0]["metadata"]["name"]
        words = {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED", "failed": 1, "reason": None}
        server.merge("rayjobs", "ofa", name, {"status": words}, sub="status")
        assert watching(api, name).end().result.state.exit_code == 0

    @pytest.mark.parametrize("code", [None, 1, 130])
    def test_a_run_that_has_not_is_as_kuberay_reports_it(self, api, failed, code):
        if code is not None:
            self.end(failed, code)
        failed.begin("train").finish(seed=1)
        name = api.list("RayJob")[0]["metadata"]["name"]
        row = cluster.status(api, name)
        assert (row["state"], row["reason"], row["note"]) == ("Failed", "AppFailed", "")
        assert watching(api, name).end().result.state.exit_code == 1

    def test_a_store_that_cannot_be_read_is_a_note(self, api, server, failed):
        name = api.list("RayJob")[0]["metadata"]["name"]
        in_store(api, server, name, "s3://bucket/prefix")  # without credentials
        row = cluster.status(api, name)
        assert (row["state"], row["reason"]) == ("Failed", "AppFailed")
        assert "cannot be read from here, so this is KubeRay's state alone" in row["note"]
        assert "cannot be read" in watching(api, name).end().notes[0]

    def test_a_store_that_does_not_answer_is_not_waited_for(self):
        with pytest.raises(StepError, match="no answer within 0 s"):
            within(0.05, lambda: time.sleep(2))
