//! A network that can be cut: hosts, each a network namespace, and the servers, all behind one router. For a program that
//! runs apart (see tests/services/apart), whose namespaces these are and go with it.

use std::process::Command;

/// Address of the router towards the servers, and the servers' own towards it.
const ROUTER: [&str; 2] = ["10.213.0.2", "10.213.0.1"];

/// The words before a command that is to run on a host.
pub fn on(host: &str) -> Vec<String> {
    vec!["nsenter".into(), format!("--net=/run/netns/{host}"), "--".into()]
}

/// The address of host `number` of a network.
pub fn address(number: usize) -> String {
    format!("10.213.{}.2", number + 1)
}

/// Some hosts.
pub struct Network {
    hosts: Vec<&'static str>,
}

/// Which way a host's line is slow.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// What comes to the host.
    In,
    /// What goes from it.
    Out,
}

/// Runs a command of iproute2, which has to succeed.
fn ip(words: &str) {
    let output = Command::new("sh").args(["-c", words]).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Network {
    /// A network of those hosts; the servers are where the environment says.
    pub fn new(hosts: &[&'static str]) -> Network {
        let [router, servers] = ROUTER;
        ip(&format!(
            "ip netns add router && ip link add name line type veth peer name servers netns router &&
             ip address add {servers}/30 dev line && ip link set line up && ip route add default via {router} &&
             ip -n router address add {router}/30 dev servers && ip -n router link set servers up &&
             ip -n router route add 10.213.9.0/24 via {servers} &&
             nsenter --net=/run/netns/router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'"
        ));
        for (number, host) in hosts.iter().enumerate() {
            let (near, far) = (format!("10.213.{}.1", number + 1), address(number));
            ip(&format!(
                "ip netns add {host} && ip -n router link add name to-{host} type veth peer name line netns {host} &&
                 ip -n router address add {near}/30 dev to-{host} && ip -n router link set to-{host} up &&
                 ip -n {host} address add {far}/30 dev line && ip -n {host} link set line up &&
                 ip -n {host} link set lo up && ip -n {host} route add default via {near}"
            ));
        }
        Network { hosts: hosts.to_vec() }
    }

    /// The address of a host, or of the server of a URL or `host:port`.
    pub fn address(&self, of: &str) -> String {
        if let Some(number) = self.hosts.iter().position(|host| *host == of) {
            return address(number);
        }
        let place = of.rsplit_once('@').map_or(of, |(_, place)| place);
        place.split(':').next().unwrap().to_string()
    }

    /// From now on the router forgets, without a word, what these two send each other.
    pub fn cut(&self, one: &str, other: &str) {
        self.rules("add", one, other);
    }

    pub fn mend(&self, one: &str, other: &str) {
        self.rules("del", one, other);
    }

    fn rules(&self, what: &str, one: &str, other: &str) {
        let (one, other) = (self.address(one), self.address(other));
        for (from, to) in [(&one, &other), (&other, &one)] {
            ip(&format!("ip -n router rule {what} pref 100 from {from} to {to} blackhole"));
        }
    }

    /// Breaks all connections between a host and a server, which both are told.
    pub fn reset(&self, host: &str, server: &str) {
        // It says of some connections that it can't, and breaks them.
        ip(&format!("nsenter --net=/run/netns/{host} ss -K dst {} || true", self.address(server)));
    }

    /// Makes a host's line slow one way, so that packets wait and are lost.
    pub fn slow(&self, host: &str, way: Way, kilobits: u32) {
        let queue = format!("root tbf rate {kilobits}kbit burst 8kb latency 300ms");
        ip(&format!("{} replace dev {} {queue}", tc(host, way), device(host, way)));
    }

    /// Makes it fast again.
    pub fn hasten(&self, host: &str, way: Way) {
        ip(&format!("{} del dev {} root", tc(host, way), device(host, way)));
    }
}

fn tc(host: &str, way: Way) -> String {
    let at = if matches!(way, Way::In) { "router" } else { host };
    format!("tc -n {at} qdisc")
}

fn device(host: &str, way: Way) -> String {
    if matches!(way, Way::In) { format!("to-{host}") } else { "line".into() }
}

/// What a server hears at a port of this machine's own.
pub struct Ears {
    port: u16,
}

impl Ears {
    /// To be called once for each network: the rules that no other can come before are moved.
    pub fn of(port: u16) -> Ears {
        ip("ip rule add pref 10 lookup local && ip rule del pref 0");
        Ears { port }
    }

    /// From now on nothing that is sent to the port arrives.
    pub fn cover(&self) {
        self.rule("add");
    }

    pub fn uncover(&self) {
        self.rule("del");
    }

    fn rule(&self, what: &str) {
        ip(&format!("ip rule {what} pref 5 ipproto tcp dport {} blackhole", self.port));
    }
}
