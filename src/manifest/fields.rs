//! Which fields of a Pod are covered, and which Kubernetes knows beside them, so that a field that
//! is not covered is refused by name and a typo as one.

/// An object of the API: its fields.
pub struct Object {
    pub covered: &'static [(&'static str, Shape)],
    /// Known to Kubernetes, not covered here.
    pub known: &'static [&'static str],
}

/// What is looked for below a field.
pub enum Shape {
    /// Nothing: a scalar, a list of them, or a map with free keys.
    Any,
    One(&'static Object),
    Many(&'static Object),
    /// Free keys of which these are covered.
    Keys(&'static [&'static str]),
    /// Written by tools, and taken as long as it says nothing.
    Empty,
}

use Shape::{Any, Empty, Keys, Many, One};

pub static POD: Object = Object {
    covered: &[
        ("apiVersion", Any),
        ("kind", Any),
        ("metadata", One(&METADATA)),
        ("spec", One(&SPEC)),
        ("status", Empty),
    ],
    known: &[],
};

static METADATA: Object = Object {
    covered: &[("name", Any), ("namespace", Any), ("labels", Any), ("annotations", Any)],
    known: &[
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ],
};

static SPEC: Object = Object {
    covered: &[
        ("initContainers", Many(&CONTAINER)),
        ("containers", Many(&CONTAINER)),
        ("volumes", Many(&VOLUME)),
        ("restartPolicy", Any),
        ("terminationGracePeriodSeconds", Any),
        ("dnsPolicy", Any),
        ("hostNetwork", Any),
        ("hostPID", Any),
        ("hostIPC", Any),
        ("shareProcessNamespace", Any),
        ("hostname", Any),
        ("securityContext", One(&POD_SECURITY)),
    ],
    known: &[
        "activeDeadlineSeconds",
        "affinity",
        "automountServiceAccountToken",
        "dnsConfig",
        "enableServiceLinks",
        "ephemeralContainers",
        "hostAliases",
        "hostUsers",
        "hostnameOverride",
        "imagePullSecrets",
        "nodeName",
        "nodeSelector",
        "os",
        "overhead",
        "preemptionPolicy",
        "priority",
        "priorityClassName",
        "readinessGates",
        "resourceClaims",
        "resources",
        "runtimeClassName",
        "schedulerName",
        "schedulingGates",
        "serviceAccount",
        "serviceAccountName",
        "setHostnameAsFQDN",
        "subdomain",
        "tolerations",
        "topologySpreadConstraints",
        "workloadRef",
    ],
};

static POD_SECURITY: Object = Object {
    covered: &[("runAsUser", Any), ("runAsGroup", Any), ("supplementalGroups", Any)],
    known: &[
        "appArmorProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "runAsNonRoot",
        "seLinuxChangePolicy",
        "seLinuxOptions",
        "seccompProfile",
        "supplementalGroupsPolicy",
        "sysctls",
        "windowsOptions",
    ],
};

static CONTAINER: Object = Object {
    covered: &[
        ("name", Any),
        ("image", Any),
        ("imagePullPolicy", Any),
        ("command", Any),
        ("args", Any),
        ("workingDir", Any),
        ("env", Many(&ENV)),
        ("ports", Many(&PORT)),
        ("securityContext", One(&SECURITY)),
        ("volumeMounts", Many(&MOUNT)),
        ("resources", One(&RESOURCES)),
        ("livenessProbe", One(&PROBE)),
        ("readinessProbe", One(&PROBE)),
        ("startupProbe", One(&PROBE)),
        ("lifecycle", One(&LIFECYCLE)),
    ],
    known: &[
        "envFrom",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "stdin",
        "stdinOnce",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "tty",
        "volumeDevices",
    ],
};

/// Kubernetes' `Probe` and berth's extension fields.
static PROBE: Object = Object {
    covered: &[
        ("exec", One(&EXEC)),
        ("httpGet", One(&HTTP_GET)),
        ("tcpSocket", One(&TCP_SOCKET)),
        ("grpc", One(&GRPC)),
        ("initialDelaySeconds", Any),
        ("timeoutSeconds", Any),
        ("periodSeconds", Any),
        ("successThreshold", Any),
        ("failureThreshold", Any),
        ("terminationGracePeriodSeconds", Any),
        ("timeoutMilliseconds", Any),
        ("periodMilliseconds", Any),
        ("probeFrom", Any),
    ],
    known: &[],
};

static LIFECYCLE: Object = Object {
    covered: &[("postStart", One(&HOOK)), ("preStop", One(&HOOK))],
    known: &["stopSignal"],
};

static HOOK: Object = Object {
    covered: &[
        ("exec", One(&EXEC)),
        ("httpGet", One(&HTTP_GET)),
        ("tcpSocket", One(&TCP_SOCKET)),
        ("sleep", One(&SLEEP)),
    ],
    known: &[],
};

static EXEC: Object = Object {
    covered: &[("command", Any)],
    known: &[],
};

static HTTP_GET: Object = Object {
    covered: &[
        ("path", Any),
        ("port", Any),
        ("host", Any),
        ("scheme", Any),
        ("httpHeaders", Many(&HEADER)),
    ],
    known: &[],
};

static HEADER: Object = Object {
    covered: &[("name", Any), ("value", Any)],
    known: &[],
};

static TCP_SOCKET: Object = Object {
    covered: &[("port", Any), ("host", Any)],
    known: &[],
};

static GRPC: Object = Object {
    covered: &[("port", Any), ("service", Any), ("host", Any)],
    known: &[],
};

static SLEEP: Object = Object {
    covered: &[("seconds", Any)],
    known: &[],
};

static ENV: Object = Object {
    covered: &[("name", Any), ("value", Any)],
    known: &["valueFrom"],
};

static PORT: Object = Object {
    covered: &[("name", Any), ("containerPort", Any), ("protocol", Any)],
    known: &["hostIP", "hostPort"],
};

static SECURITY: Object = Object {
    covered: &[
        ("capabilities", One(&CAPABILITIES)),
        ("runAsUser", Any),
        ("runAsGroup", Any),
        ("privileged", Any),
        ("readOnlyRootFilesystem", Any),
        ("allowPrivilegeEscalation", Any),
    ],
    known: &[
        "appArmorProfile",
        "procMount",
        "runAsNonRoot",
        "seLinuxOptions",
        "seccompProfile",
        "windowsOptions",
    ],
};

static CAPABILITIES: Object = Object {
    covered: &[("add", Any), ("drop", Any)],
    known: &[],
};

static MOUNT: Object = Object {
    covered: &[("name", Any), ("mountPath", Any), ("readOnly", Any)],
    known: &["mountPropagation", "recursiveReadOnly", "subPath", "subPathExpr"],
};

static RESOURCES: Object = Object {
    covered: &[
        ("limits", Keys(&["cpu", "memory"])),
        ("requests", Keys(&["cpu", "memory"])),
    ],
    known: &["claims"],
};

static VOLUME: Object = Object {
    covered: &[
        ("name", Any),
        ("emptyDir", One(&EMPTY_DIR)),
        ("hostPath", One(&HOST_PATH)),
    ],
    known: &[
        "awsElasticBlockStore",
        "azureDisk",
        "azureFile",
        "cephfs",
        "cinder",
        "configMap",
        "csi",
        "downwardAPI",
        "ephemeral",
        "fc",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "gitRepo",
        "glusterfs",
        "image",
        "iscsi",
        "nfs",
        "persistentVolumeClaim",
        "photonPersistentDisk",
        "portworxVolume",
        "projected",
        "quobyte",
        "rbd",
        "scaleIO",
        "secret",
        "storageos",
        "vsphereVolume",
    ],
};

static EMPTY_DIR: Object = Object {
    covered: &[],
    known: &["medium", "sizeLimit"],
};

static HOST_PATH: Object = Object {
    covered: &[("path", Any), ("type", Any)],
    known: &[],
};
