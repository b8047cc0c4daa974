//! How many threads pay off: one for each fast core that this process may use.
//!
//! Two threads on one core share its vector units, which a kernel keeps busy alone; and a slow core of a mixed
//! processor makes all others wait at the end of every loop.

/// Fast cores, at most as many as the process may use; at least 1.
pub(super) fn fast_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    physical().map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// What the system says about its fast cores, if it does.
#[cfg(target_os = "linux")]
fn physical() -> Option<usize> {
    use std::collections::HashSet;
    use std::fs::read_to_string;

    let read = |path: String| read_to_string(path).ok();
    let online = numbers(&read("/sys/devices/system/cpu/online".into())?)?;
    // Intel's mixed processors name their fast cores; ARM's give each core its speed.
    let fast = read("/sys/devices/cpu_core/cpus".into()).and_then(|text| numbers(&text));
    let speed = |cpu: usize| {
        let capacity = read(format!("/sys/devices/system/cpu/cpu{cpu}/cpu_capacity"));
        capacity.and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0)
    };
    let most = online.iter().map(|&cpu| speed(cpu)).max()?;
    let mut cores = HashSet::new();
    for cpu in online.into_iter().filter(|cpu| fast.as_ref().is_none_or(|fast| fast.contains(cpu))) {
        // Cores of a middle speed still help; those at less than half of the best do not.
        if 2 * speed(cpu) >= most {
            cores.insert(read(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))?);
        }
    }
    Some(cores.len())
}

#[cfg(target_os = "macos")]
fn physical() -> Option<usize> {
    let sysctl =
        std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.perflevel0.physicalcpu"]).output();
    String::from_utf8(sysctl.ok()?.stdout).ok()?.trim().parse().ok()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn physical() -> Option<usize> {
    None
}

/// The numbers of a list as the kernel writes it: `0-3,8,10-11`.
#[cfg(target_os = "linux")]
fn numbers(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_at_least_one_core() {
        assert!(super::fast_cores() >= 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn lists_of_the_kernel() {
        assert_eq!(super::numbers("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(super::numbers("0"), Some(vec![0]));
        assert_eq!(super::numbers("none"), None);
    }
}
